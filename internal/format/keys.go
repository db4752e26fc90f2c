package format

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Names of the folders of a target in the store, and of the manifest.
const (
	backupsFolder = "backups"
	chunksFolder  = "chunks"
	manifestName  = "manifest.json"
)

// RunsFolder is the store's folder of what runs leave, beside those of the targets.
const RunsFolder = "runs"

// AuditFolder is the store's folder of the audit trail, beside those of the targets.
const AuditFolder = "audit"

// BackupsPrefix is the prefix of the keys of all of a target's backups.
func BackupsPrefix(target string) string { return target + "/" + backupsFolder + "/" }

// BackupKey is the key of a file in a backup's folder.
func BackupKey(target, backup, file string) string {
	return BackupsPrefix(target) + backup + "/" + file
}

// ManifestKey is the key of a backup's manifest.
func ManifestKey(target, backup string) string { return BackupKey(target, backup, manifestName) }

// BackupOfManifest returns the id of the backup whose manifest has the key.
func BackupOfManifest(target, key string) (string, bool) {
	rest, ok := strings.CutPrefix(key, BackupsPrefix(target))
	if !ok {
		return "", false
	}
	id, ok := strings.CutSuffix(rest, "/"+manifestName)
	return id, ok && ValidID(id)
}

// ChunkKey is the key of a chunk by its name, see Chunk.Object.
func ChunkKey(target, chunk string) string {
	if !strings.HasSuffix(chunk, encrypted) {
		chunk += ".zst"
	}
	return fmt.Sprintf("%s/%s/%.2s/%s", target, chunksFolder, chunk, chunk)
}

// encrypted ends the names of encrypted chunks and of repository keys: they are files of age.
const encrypted = ".age"

// WrappedKeysPrefix is the prefix of the keys by which a target's backups are encrypted.
func WrappedKeysPrefix(target string) string { return target + "/keys/" }

// WrappedKey is where a repository key lies, wrapped to those who may use it, by its fingerprint.
func WrappedKey(target, fingerprint string) string {
	return WrappedKeysPrefix(target) + fingerprint + encrypted
}

// FingerprintOfWrapped returns the fingerprint of the repository key that lies at the key.
func FingerprintOfWrapped(target, key string) (fingerprint string, ok bool) {
	fingerprint = strings.TrimSuffix(strings.TrimPrefix(key, WrappedKeysPrefix(target)), encrypted)
	return fingerprint, ValidFingerprint(fingerprint) && key == WrappedKey(target, fingerprint)
}

// ValidFingerprint reports whether a text can be the fingerprint of a repository key.
func ValidFingerprint(text string) bool { return hexKey.MatchString(text) }

// EncryptedName is the name of an encrypted chunk, by the 64 hex digits that are made with the key.
func EncryptedName(digits string) string { return digits + encrypted }

// QuarantineKey is where the bytes of a damaged chunk are set aside. They are named by what they are,
// so that doing it twice is doing it once.
func QuarantineKey(target, chunk, found string) string {
	return fmt.Sprintf("%s/quarantine/%s.%.16s", target, chunk, found)
}

// MarkKey is the key of the note that a backup was found damaged.
func MarkKey(target, backup string) string { return fmt.Sprintf("%s/marks/%s.json", target, backup) }

// ProofKey is the key of the note of the newest comparison of a restored copy of a backup.
func ProofKey(target, backup string) string { return fmt.Sprintf("%s/proofs/%s.json", target, backup) }

// HoldKey is the key of the note that a backup may not be removed.
func HoldKey(target, backup string) string { return fmt.Sprintf("%s/holds/%s.json", target, backup) }

// RemovalKey is the key of the note that a backup is being removed, or was.
func RemovalKey(target, backup string) string {
	return fmt.Sprintf("%s/removed/%s.json", target, backup)
}

// CondemnedKey is the key of the list of chunks that no backup needs any more.
func CondemnedKey(target string) string { return target + "/condemned.json" }

// ChunksPrefix is the prefix of the keys of all of a target's chunks.
func ChunksPrefix(target string) string { return target + "/" + chunksFolder + "/" }

// ChunkOfKey returns the name of the chunk that has the key.
func ChunkOfKey(target, key string) (string, bool) {
	name := strings.TrimSuffix(key[strings.LastIndexByte(key, '/')+1:], ".zst")
	return name, hexSHA256.MatchString(strings.TrimSuffix(name, encrypted)) && key == ChunkKey(target, name)
}

// CopiesPrefix is the prefix of the notes about a target's copies in the making.
func CopiesPrefix(target string) string { return target + "/copies/" }

// CopyKey is the key of the note that a run builds a copy under a name.
func CopyKey(target, database string) string { return CopiesPrefix(target) + database + ".json" }

// ReplacedPrefix is the prefix of the notes about a target's databases that were replaced.
func ReplacedPrefix(target string) string { return target + "/replaced/" }

// KeptKey is the key of the note about a database that was replaced and is kept, by its server's system
// identifier, its oid and its name.
func KeptKey(target, system string, oid uint32, name string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%d\x00%s", system, oid, name))
	return ReplacedPrefix(target) + hex.EncodeToString(sum[:8]) + ".json"
}

// CheckpointsPrefix is the prefix of the checkpoints of the audit trail, and CheckpointHint where to begin
// to look for the newest.
const (
	CheckpointsPrefix = AuditFolder + "/checkpoints/"
	CheckpointHint    = AuditFolder + "/newest"
)

// maxCheckpoints bounds the numbers of checkpoints: keys are in their order, and no sum of two overflows.
const maxCheckpoints = 1_000_000_000_000

// CheckpointKey is the key of a checkpoint by its number. Keys are in the order of numbers.
func CheckpointKey(seq int64) string { return fmt.Sprintf("%s%012d.json", CheckpointsPrefix, seq) }

// SeqOfCheckpoint returns the number of the checkpoint that has the key.
func SeqOfCheckpoint(key string) (seq int64, ok bool) {
	digits := strings.TrimSuffix(strings.TrimPrefix(key, CheckpointsPrefix), ".json")
	seq, err := strconv.ParseInt(digits, 10, 64)
	return seq, err == nil && seq > 0 && seq < maxCheckpoints && key == CheckpointKey(seq)
}

// TrendPrefix is the prefix of what a target's runs of a procedure measured.
func TrendPrefix(target, procedure string) string {
	return fmt.Sprintf("%s/trend/%s/", target, procedure)
}

// TrendKey is the key of what one run measured. Keys are in the order in which runs ended; that of a
// run which is written down twice is the same.
func TrendKey(target, procedure string, ended time.Time, runID string) string {
	sum := sha256.Sum256([]byte(runID))
	return fmt.Sprintf("%s%s-%x.json", TrendPrefix(target, procedure), ended.UTC().Format("20060102T150405.000000000Z"), sum[:8])
}

var trendName = regexp.MustCompile(`^[0-9]{8}T[0-9]{6}\.[0-9]{9}Z-[0-9a-f]{16}\.json$`)

// IsTrendKey reports whether a key can be one that TrendKey made for the target and procedure.
func IsTrendKey(target, procedure, key string) bool {
	name, ok := strings.CutPrefix(key, TrendPrefix(target, procedure))
	return ok && trendName.MatchString(name)
}

// RunKey is the key of a file that a run leaves. The id is any workflow's id.
func RunKey(runID, file string) string { return RunsFolder + "/" + part(runID) + "/" + file }

// ProbeKey is the key of the object by which somebody on a machine tries what the store lets them do. It
// is in no folder, and no target's name begins like it.
func ProbeKey(host string) string { return "_probe-" + part(host) }

// part writes any text so that it is one part of a path and two texts never meet.
func part(text string) string {
	const longest = 200
	var escaped strings.Builder
	for _, b := range []byte(text) {
		if 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9' || b == '-' || b == '_' {
			escaped.WriteByte(b)
		} else {
			fmt.Fprintf(&escaped, "%%%02X", b)
		}
	}
	name := escaped.String()
	if len(name) > longest {
		sum := sha256.Sum256([]byte(text))
		name = name[:longest-33] + "." + hex.EncodeToString(sum[:16]) // a dot stands in no other name
	}
	return name
}

var validID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$`)

// ValidID reports whether the id of a backup or the name of a target can be part of a key.
func ValidID(id string) bool { return validID.MatchString(id) }

// BaselinesPrefix is the prefix of the reviews of access that were accepted for a target.
func BaselinesPrefix(target string) string { return target + "/access/baselines/" }

// BaselineKey is the key of an accepted review by its number. Keys are in the order of numbers.
func BaselineKey(target string, seq int64) string {
	return fmt.Sprintf("%s%012d.json", BaselinesPrefix(target), seq)
}

// BaselineHint is the key of how many there are.
func BaselineHint(target string) string { return target + "/access/newest" }

// ReviewKey is the key of what was accepted, by the SHA-256 of its file.
func ReviewKey(target, hash string) string {
	return fmt.Sprintf("%s/access/reviews/%s.json", target, hash)
}

// ReviewFile is the name of a review of access among what a run leaves, by the SHA-256 of its content.
func ReviewFile(hash string) string { return "access-" + hash + ".json" }
