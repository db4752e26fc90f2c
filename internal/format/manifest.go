// Package format is the formats of an Upkeep backup, 1 and, encrypted, 2: the names and the JSON of
// everything that a backup leaves in the store. docs/format.md says the same in
// prose; golden backups in testdata keep both honest for ever.
package format

import "time"

// The formats that this Upkeep writes and reads.
const (
	Plain  = 1
	Sealed = 2 // encrypted: all but an Index needs the repository key
	newest = Sealed
)

// Manifest describes one whole backup. It is written last: a backup without a
// manifest does not exist.
type Manifest struct {
	Format     int       `json:"format"`
	Backup     string    `json:"backup"` // the backup's id, equal to its folder's name
	Target     string    `json:"target"` // the target's name, equal to its folder's name
	Engine     string    `json:"engine"` // the version of Upkeep that wrote it
	StartedAt  time.Time `json:"startedAt"`
	SnapshotAt time.Time `json:"snapshotAt"` // the instant that the backup shows
	FinishedAt time.Time `json:"finishedAt"`
	Scope      string    `json:"scope"` // what is in it and what is not, for people
	// Key is the fingerprint of the repository key that a sealed backup is encrypted with.
	Key string `json:"key,omitempty"`

	Server   Server   `json:"server"`
	Database Database `json:"database"`
	Roles    []Role   `json:"roles"` // owners, grantees and what they are members of; never a password
	Session  []Pin    `json:"session"`

	Schema       Schema       `json:"schema"`
	Tables       []Table      `json:"tables"`
	Sequences    []Sequence   `json:"sequences"`
	LargeObjects LargeObjects `json:"largeObjects"`
	Census       Census       `json:"census"`

	// LeftOut names what the database holds and the backup does not. Anything here means no PASS.
	LeftOut []string `json:"leftOut"`
	// Elsewhere names what is not data of this database (foreign tables, materialized views that are
	// computed again, rows that an extension's own script makes). It does not stand against a PASS.
	Elsewhere []string `json:"elsewhere"`

	Files  []File `json:"files"` // the other files in the backup's folder
	Totals Totals `json:"totals"`
}

// Server is the server that was read.
type Server struct {
	Version          string `json:"version"`    // as the server says it, e.g. "15.18 (Debian 15.18-0+deb12u1)"
	VersionNum       int    `json:"versionNum"` // e.g. 150018
	BlockSize        int    `json:"blockSize"`  // bytes
	SystemIdentifier string `json:"systemIdentifier,omitempty"`
}

// Database is what belongs to the database itself rather than to anything in it.
type Database struct {
	Name            string        `json:"name"`
	Owner           string        `json:"owner"`
	Encoding        string        `json:"encoding"`
	Collate         string        `json:"collate"`
	Ctype           string        `json:"ctype"`
	LocaleProvider  string        `json:"localeProvider"` // "c" libc, "i" icu, "b" builtin
	Locale          string        `json:"locale,omitempty"`
	IcuRules        string        `json:"icuRules,omitempty"`
	Comment         string        `json:"comment,omitempty"`
	ConnectionLimit int           `json:"connectionLimit"`
	ACL             []Grant       `json:"acl"`        // also where it is the built-in default
	DefaultACL      bool          `json:"defaultAcl"` // true when ACL is the built-in default
	Settings        []RoleSetting `json:"settings"`   // ALTER DATABASE ... SET and ALTER ROLE ... IN DATABASE ... SET
	SizeBytes       int64         `json:"sizeBytes"`
}

// Grant is one item of an access control list. An empty Grantee is PUBLIC.
type Grant struct {
	Grantee   string `json:"grantee"`
	Grantor   string `json:"grantor"`
	Privilege string `json:"privilege"`
	Grantable bool   `json:"grantable"`
}

// RoleSetting is a setting of the database; for one role where Role is set.
type RoleSetting struct {
	Role  string `json:"role,omitempty"`
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Role is a role that something in the database refers to.
type Role struct {
	Name        string   `json:"name"`
	Superuser   bool     `json:"superuser"`
	Inherit     bool     `json:"inherit"`
	CreateRole  bool     `json:"createRole"`
	CreateDB    bool     `json:"createDb"`
	Login       bool     `json:"login"`
	Replication bool     `json:"replication"`
	BypassRLS   bool     `json:"bypassRls"`
	ConnLimit   int      `json:"connLimit"`
	MemberOf    []string `json:"memberOf,omitempty"`
}

// Pin is a session setting that shapes the text of rows; every session that
// writes or compares them sets it to the same value.
type Pin struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Schema is the pg_dump archive (custom format, pre-data and post-data sections,
// large objects' metadata) taken on the same snapshot.
type Schema struct {
	Archive    Chunk      `json:"archive"` // Rows and RowHash unused; the plain bytes are the archive
	TextSHA256 string     `json:"textSha256"`
	PgDump     string     `json:"pgDump"`   // the version of pg_dump that wrote it
	PostData   []PostData `json:"postData"` // the archive's indexes and constraints, by table
}

// PostData is an entry of the archive that can be built as soon as its table has its rows.
type PostData struct {
	DumpID int    `json:"dumpId"` // the archive's own number, as pg_restore -l prints it
	Kind   string `json:"kind"`   // PostIndex, PostConstraint or PostForeignKey
	Table  int    `json:"table"`  // position in Manifest.Tables; -1 when the relation has no rows of its own
	Name   string `json:"name"`   // for people
	Schema string `json:"schema"`
}

// Kinds of PostData.
const (
	PostIndex      = "index"      // CREATE INDEX
	PostConstraint = "constraint" // PRIMARY KEY, UNIQUE, EXCLUDE: built from an index
	PostForeignKey = "foreignKey" // needs the rows and the keys of two tables
)

// Table is a relation whose own rows are in the backup.
type Table struct {
	Schema  string   `json:"schema"`
	Name    string   `json:"name"`
	Owner   string   `json:"owner"`
	Kind    string   `json:"kind"`    // "table", "partition" or "extension" (configuration of an extension)
	Columns []string `json:"columns"` // in the source's order; generated columns are not among them
	// Where is the condition of an extension's configuration table; empty for others.
	Where string `json:"where,omitempty"`
	// Root is the partitioned table through which the rows must be loaded, because a new database
	// would hash them into other partitions. Nil: the rows are loaded into the table itself.
	Root *Name `json:"root,omitempty"`

	Rows    int64   `json:"rows"`
	RowHash string  `json:"rowHash"` // 32 hex digits, order-free: see rowhash
	Bytes   int64   `json:"bytes"`   // of COPY text
	Pages   int64   `json:"pages"`   // of the heap when the ranges were cut
	Ranges  []Range `json:"ranges"`  // ascending, without a gap, the last without an end
}

// Name is a schema-qualified name, unquoted.
type Name struct {
	Schema string `json:"schema"`
	Name   string `json:"name"`
}

// Range is a run of heap pages and the chunks that hold its rows, in heap order.
type Range struct {
	First  int64   `json:"first"`  // page
	End    int64   `json:"end"`    // page after the last; -1: to the end of the table
	Chunks []Chunk `json:"chunks"` // none when the range has no rows
}

// Chunk is one stored object: a single zstd frame of COPY text (or of another file's bytes), in a sealed
// backup encrypted.
type Chunk struct {
	SHA256 string `json:"sha256"` // of the plain bytes, hex
	// Name is the object's name in a sealed backup, which tells nothing of the plain bytes.
	Name         string    `json:"name,omitempty"`
	Size         int64     `json:"size"`         // of the plain bytes
	StoredSHA256 string    `json:"storedSha256"` // of the stored bytes, hex
	StoredSize   int64     `json:"storedSize"`
	Rows         int64     `json:"rows,omitempty"`
	RowHash      string    `json:"rowHash,omitempty"`
	CheckedAt    time.Time `json:"checkedAt"` // when the stored bytes were last written or read back whole
}

// Object is the name of the stored object: in a plain backup the SHA-256 of its plain bytes.
func (c Chunk) Object() string {
	if c.Name != "" {
		return c.Name
	}
	return c.SHA256
}

// Sequence is a sequence's position.
type Sequence struct {
	Schema string `json:"schema"`
	Name   string `json:"name"`
	Last   int64  `json:"last"`
	Called bool   `json:"called"`
}

// LargeObjects are the contents of the database's large objects. A chunk's rows are COPY text of
// (oid, offset in bytes, data as bytea), pieces of at most LargeObjectPiece bytes; an empty object
// is one row with empty data. Existence, owner and grants are in the schema's archive.
type LargeObjects struct {
	Count   int64   `json:"count"`
	Bytes   int64   `json:"bytes"`
	Rows    int64   `json:"rows"`
	RowHash string  `json:"rowHash"`
	Chunks  []Chunk `json:"chunks"`
}

// LargeObjectPiece is the size in bytes of the pieces of a large object.
const LargeObjectPiece = 256 << 10

// Census is what separate code counted in the same snapshot. A backup whose
// tables do not agree with it is not written.
type Census struct {
	Tables       []Count `json:"tables"`
	Sequences    int     `json:"sequences"`
	LargeObjects int64   `json:"largeObjects"`
	// Objects counts the catalog's other objects by kind, e.g. "valid indexes".
	Objects map[string]int64 `json:"objects"`
}

// Count is the census of one table.
type Count struct {
	Schema string `json:"schema"`
	Name   string `json:"name"`
	Rows   int64  `json:"rows"`
	// Nulls counts the NULLs of each of the table's columns, in the order of Table.Columns.
	Nulls []int64 `json:"nulls,omitempty"`
	Pages int64   `json:"pages"` // of the heap, read after the rows
	// Generated sums up the rows with their stored generated columns; empty where there are none.
	Generated string `json:"generated,omitempty"`
}

// File is another file in the backup's folder.
type File struct {
	Name   string `json:"name"` // a plain name, no slash
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// Totals are for people and for results.
type Totals struct {
	Tables       int   `json:"tables"`
	Rows         int64 `json:"rows"`
	BytesRead    int64 `json:"bytesRead"`    // COPY text, schema, large objects
	BytesStored  int64 `json:"bytesStored"`  // new bytes that this backup added to the store
	BytesTotal   int64 `json:"bytesTotal"`   // stored bytes of all chunks the backup needs
	ChunksStored int   `json:"chunksStored"` // new chunks
	ChunksReused int   `json:"chunksReused"`
}
