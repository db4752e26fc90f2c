package postgres

import "github.com/upkeep-run/upkeep/internal/format"

// DatabaseLocale is the part of CREATE DATABASE that gives a new database the encoding and the locale of
// another, on a server of that version, and nothing of the server's own template.
func DatabaseLocale(d format.Database, versionNum int) string {
	sql := " TEMPLATE template0 ENCODING " + Literal(d.Encoding) + " LC_COLLATE " + Literal(d.Collate) + " LC_CTYPE " + Literal(d.Ctype)
	switch {
	case versionNum < 150000: // knows no other than libc
	case d.LocaleProvider == "i":
		sql += " LOCALE_PROVIDER icu ICU_LOCALE " + Literal(d.Locale)
		if d.IcuRules != "" {
			sql += " ICU_RULES " + Literal(d.IcuRules)
		}
	case d.LocaleProvider == "b":
		sql += " LOCALE_PROVIDER builtin BUILTIN_LOCALE " + Literal(d.Locale)
	default:
		sql += " LOCALE_PROVIDER libc"
	}
	return sql
}
