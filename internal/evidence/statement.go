package evidence

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	"github.com/upkeep-run/upkeep/internal/objstore"
)

const (
	statementName = "statement.json"
	// statementType and payloadType are in-toto's; predicateType is ours.
	statementType = "https://in-toto.io/Statement/v1"
	payloadType   = "application/vnd.in-toto+json"
	predicateType = "https://upkeep.run/evidence/v1"
	// maxStatement bounds the statement's file, in bytes.
	maxStatement = 64 << 10
)

// Statement is what is signed at the end: in-toto's form, about the log of custody as a whole.
type Statement struct {
	Type          string    `json:"_type"`
	Subject       []Subject `json:"subject"`
	PredicateType string    `json:"predicateType"`
	Predicate     Predicate `json:"predicate"`
}

// Subject names the newest entry of the log, which stands for all before it.
type Subject struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"`
}

// Predicate says of which case the evidence is, and how the log ended.
type Predicate struct {
	Case   string    `json:"case"`
	Target string    `json:"target"`
	Run    string    `json:"run"`
	At     time.Time `json:"at"`
	Head   Head      `json:"head"`
}

// signer signs and checks with one ed25519 key, as dsse wants it.
type signer struct {
	private ed25519.PrivateKey
	public  ed25519.PublicKey
}

func (s signer) Sign(_ context.Context, data []byte) ([]byte, error) {
	return ed25519.Sign(s.private, data), nil
}

func (s signer) Verify(_ context.Context, data, signature []byte) error {
	if !ed25519.Verify(s.public, data, signature) {
		return errors.New("the signature is not valid")
	}
	return nil
}

func (s signer) KeyID() (string, error) { return hex.EncodeToString(s.public), nil }

func (s signer) Public() crypto.PublicKey { return s.public }

// Seal writes the signed statement of the log as it stands. Done twice, it finds it done. One that is there and
// says less, of a log that has grown since, is replaced; one that another attempt may have written, which has made
// the log grow, is not.
func (k *Keeper) Seal(ctx context.Context, target, run string, at time.Time) error {
	k.lock.Lock()
	head, next := k.head, segmentName(k.segment+1)
	k.lock.Unlock()
	switch _, err := k.store.Stat(ctx, k.folder+next); {
	case err == nil:
		return k.fenced()
	case !errors.Is(err, objstore.ErrNotExist):
		return err
	}
	data, err := json.Marshal(Statement{
		Type: statementType, Subject: []Subject{{"custody", map[string]string{"sha256": head.Hash}}}, PredicateType: predicateType,
		Predicate: Predicate{Case: k.caseID, Target: target, Run: run, At: at.UTC(), Head: head},
	})
	if err != nil {
		return fmt.Errorf("encode the statement of the evidence: %w", err)
	}
	if there, err := k.store.Read(ctx, k.folder+statementName, maxStatement); err == nil {
		if s, _, err := open(ctx, there); err == nil && s.Predicate.Head == head {
			return nil
		}
	} else if !errors.Is(err, objstore.ErrNotExist) {
		return err
	}
	by, err := dsse.NewEnvelopeSigner(signer{k.key, k.key.Public().(ed25519.PublicKey)})
	if err != nil {
		return fmt.Errorf("sign the evidence: %w", err)
	}
	envelope, err := by.SignPayload(ctx, payloadType, data)
	if err != nil {
		return fmt.Errorf("sign the evidence: %w", err)
	}
	file, err := encode(envelope)
	if err != nil {
		return fmt.Errorf("encode the statement of the evidence: %w", err)
	}
	return k.store.Replace(ctx, k.folder+statementName, file)
}

func encode(e *dsse.Envelope) ([]byte, error) {
	file, err := json.MarshalIndent(e, "", "  ")
	return append(file, '\n'), err
}

// open reads a statement, and returns who signed it.
func open(ctx context.Context, file []byte) (s Statement, key string, err error) {
	var e dsse.Envelope
	if err := json.Unmarshal(file, &e); err != nil || len(e.Signatures) != 1 || e.PayloadType != payloadType {
		return s, "", errors.New("it is no statement with one signature")
	}
	if again, err := encode(&e); err != nil || !bytes.Equal(again, file) {
		return s, "", errors.New("it is not as it was written")
	}
	key = e.Signatures[0].KeyID
	public, err := hex.DecodeString(key)
	if err != nil || len(public) != ed25519.PublicKeySize {
		return s, "", errors.New("it does not say who signed it")
	}
	verifier, err := dsse.NewEnvelopeVerifier(signer{public: public})
	if err != nil {
		return s, "", err
	}
	if _, err := verifier.Verify(ctx, &e); err != nil {
		return s, "", errors.New("its signature is not valid")
	}
	data, err := e.DecodeB64Payload()
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	if err != nil || s.Type != statementType || s.PredicateType != predicateType || len(s.Subject) != 1 || s.Subject[0].Digest["sha256"] != s.Predicate.Head.Hash {
		return s, "", errors.New("it is no statement of evidence")
	}
	return s, key, nil
}
