// Package failure is the one catalogue of what can go wrong in Upkeep. Every
// error that a person may see carries a code from the catalogue; the code
// decides the class, and the class decides what the run does next. The package
// knows nothing of Temporal: activities translate it at their edge.
package failure

import (
	"errors"
	"fmt"
	"time"
)

// Class says what a run does about an error.
type Class string

// The classes. Only Transient is retried by itself.
const (
	InvalidInput Class = "InvalidInput"       // the caller must change the input: refused, never retried
	NotFound     Class = "NotFound"           // the thing named does not exist: refused, never retried
	Refused      Class = "Refused"            // policy or safety forbids it: refused, never retried
	Precondition Class = "PreconditionFailed" // the world is not as the plan needs it: refused, never retried
	NeedsPerson  Class = "NeedsPerson"        // a person can mend it: the run parks until resumed or abandoned
	Damaged      Class = "Damaged"            // what is stored or was read is wrong: the run fails
	Transient    Class = "Transient"          // may pass by itself: retried with backoff, then parks
)

// Code names one kind of failure. It is stable: people and programs match on it.
type Code string

// Error is a failure that a person can act on.
type Error struct {
	Code   Code
	What   string // what happened, to what; no secret, no row value
	Remedy string // what to do next; empty only where nothing can be done
	Cause  error  // the underlying error, if its text is safe to show
	// After is how long to wait before it makes sense to try again, where a server has said so.
	After time.Duration
}

// New returns a failure of the given code. What happened is formatted as by fmt.Sprintf.
func New(code Code, format string, args ...any) *Error {
	return &Error{Code: code, What: fmt.Sprintf(format, args...)}
}

// Do adds the remedy, formatted as by fmt.Sprintf.
func (e *Error) Do(format string, args ...any) *Error {
	e.Remedy = fmt.Sprintf(format, args...)
	return e
}

// Because adds the cause.
func (e *Error) Because(cause error) *Error {
	e.Cause = cause
	return e
}

// Wait adds how long to wait before it makes sense to try again.
func (e *Error) Wait(d time.Duration) *Error {
	e.After = d
	return e
}

// Class returns the class of the code; a code that is not in the catalogue is Transient.
func (e *Error) Class() Class {
	if c, ok := catalogue[e.Code]; ok {
		return c
	}
	return Transient
}

func (e *Error) Error() string {
	s := e.What
	if e.Cause != nil {
		s += ": " + e.Cause.Error()
	}
	if e.Remedy != "" {
		s += "; to mend it: " + e.Remedy
	}
	return s
}

func (e *Error) Unwrap() error { return e.Cause }

// As returns the failure inside err, if there is one.
func As(err error) (*Error, bool) {
	var f *Error
	ok := errors.As(err, &f)
	return f, ok
}

// Is reports whether err carries a failure with the code.
func Is(err error, code Code) bool {
	f, ok := As(err)
	return ok && f.Code == code
}
