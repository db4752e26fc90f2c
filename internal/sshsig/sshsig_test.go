package sshsig

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
)

const namespace = "upkeep-approval"

// recorded is a signature that ssh-keygen has made, with a key whose private half is gone.
func recorded(t testing.TB) (key, message, signature string) {
	t.Helper()
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join("testdata", name))
		require.NoError(t, err)
		return string(data)
	}
	return read("key.pub"), read("message"), read("message.sig")
}

func TestARecordedSignature(t *testing.T) {
	line, message, text := recorded(t)
	s, err := Parse(text)
	require.NoError(t, err)
	key, err := ParseKey(line)
	require.NoError(t, err)
	require.Equal(t, key, s.Key)
	require.Equal(t, strings.Join(strings.Fields(line)[:2], " "), KeyLine(s.Key), "without the comment")
	require.Equal(t, "SHA256:xpL/M+joqexE94eO9VsMhOxk49c3bWVGI8BHB95eRZQ", Fingerprint(key), "as ssh-keygen -l prints it")
	require.Equal(t, text, s.Armor(), "as ssh-keygen writes it")
	require.True(t, s.Verify(namespace, []byte(message)))
	require.False(t, s.Verify(namespace, []byte(message+"\n")))
	require.False(t, s.Verify("file", []byte(message)))
	s.Namespace = "file"
	require.False(t, s.Verify("file", []byte(message)), "what it is for is signed too")
	for _, as := range []string{strings.ReplaceAll(text, "\n", "\r\n"), "\n  " + text + "\n\n", strings.ReplaceAll(text, "\nC3N", " C3N")} {
		s, err := Parse(as)
		require.NoError(t, err, "pasted, it is the same")
		require.True(t, s.Verify(namespace, []byte(message)))
	}
}

// keygen signs with the program that everybody has.
func keygen(t *testing.T, args ...string) string {
	t.Helper()
	program, err := exec.LookPath("ssh-keygen")
	if err != nil {
		t.Skip("there is no ssh-keygen here")
	}
	out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

// newKey makes a key, and the file of it.
func newKey(t *testing.T) (ed25519.PrivateKey, string) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	block, err := ssh.MarshalPrivateKey(private, "a test")
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "key")
	require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(block), 0o600))
	require.NoError(t, os.WriteFile(file+".pub", []byte(KeyLine(public)+" a test\n"), 0o600))
	return private, file
}

func TestWhatKeygenSigns(t *testing.T) {
	private, file := newKey(t)
	for _, hash := range []string{"sha512", "sha256"} {
		message := filepath.Join(t.TempDir(), "message")
		require.NoError(t, os.WriteFile(message, []byte("by "+hash), 0o600))
		keygen(t, "-q", "-Y", "sign", "-n", namespace, "-O", "hashalg="+hash, "-f", file, message)
		text, err := os.ReadFile(message + ".sig")
		require.NoError(t, err)
		s, err := Parse(string(text))
		require.NoError(t, err)
		require.Equal(t, hash, s.hash)
		require.Equal(t, private.Public(), s.Key)
		require.True(t, s.Verify(namespace, []byte("by "+hash)))
		require.False(t, s.Verify(namespace, []byte("by another")))
	}
}

func TestKeygenReadsWhatIsSigned(t *testing.T) {
	private, file := newKey(t)
	s, err := New(private.Public().(ed25519.PublicKey), namespace, []byte("a message"), func(data []byte) ([]byte, error) { return ed25519.Sign(private, data), nil })
	require.NoError(t, err)
	signature := filepath.Join(t.TempDir(), "sig")
	require.NoError(t, os.WriteFile(signature, []byte(s.Armor()), 0o600))
	allowed := filepath.Join(t.TempDir(), "allowed")
	require.NoError(t, os.WriteFile(allowed, []byte("ann "+KeyLine(s.Key)+"\n"), 0o600))
	program, err := exec.LookPath("ssh-keygen")
	if err != nil {
		t.Skip("there is no ssh-keygen here")
	}
	cmd := exec.CommandContext(t.Context(), program, "-Y", "verify", "-f", allowed, "-I", "ann", "-n", namespace, "-s", signature)
	cmd.Stdin = strings.NewReader("a message")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), Fingerprint(s.Key))
	require.Contains(t, keygen(t, "-l", "-f", file+".pub"), Fingerprint(s.Key))
}

func TestASignerThatSignsSomethingElse(t *testing.T) {
	private, _ := newKey(t)
	other, _ := newKey(t)
	_, err := New(private.Public().(ed25519.PublicKey), namespace, []byte("m"), func(data []byte) ([]byte, error) { return ed25519.Sign(other, data), nil })
	require.ErrorContains(t, err, "no signature of that key")
	_, err = New(private.Public().(ed25519.PublicKey), namespace, []byte("m"), func([]byte) ([]byte, error) { return nil, errors.New("not now") })
	require.ErrorContains(t, err, "not now")
}

// armor wraps bytes as if they were a signature.
func armor(data []byte) string {
	return begins + "\n" + base64.StdEncoding.EncodeToString(data) + "\n" + ends
}

// fields is a signature of these fields.
func fields(all ...string) []byte {
	out := []byte(magic + "\x00\x00\x00\x01")
	for _, f := range all {
		out = put(out, f)
	}
	return out
}

func TestWhatIsNoSignature(t *testing.T) {
	_, _, text := recorded(t)
	good, err := Parse(text)
	require.NoError(t, err)
	key, signed := string(wireKey(good.Key)), string(put(put(nil, KeyType), string(good.bytes)))
	whole := fields(key, namespace, "", "sha512", signed)
	_, err = Parse(armor(whole))
	require.NoError(t, err, "what the cases are made of")
	body := base64.StdEncoding.EncodeToString(whole)
	for name, c := range map[string]struct{ text, says string }{
		"nothing":               {"", "does not go from"},
		"too long":              {text + strings.Repeat(" ", MaxText), "more than 4096 bytes"},
		"no end":                {strings.Replace(text, ends, "", 1), "does not go from"},
		"no beginning":          {strings.Replace(text, begins, "", 1), "does not go from"},
		"something before":      {"x" + text, "does not go from"},
		"something after":       {text + "x", "does not go from"},
		"a key":                 {"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----", "does not go from"},
		"no base64":             {begins + "\n!!!!\n" + ends, "no base64"},
		"stray bits in base64":  {begins + "\nU1NIU0lHAB==\n" + ends, "no base64"},
		"two in one":            {begins + "\n" + body + "\n" + ends + "\n" + begins + "\n" + body + "\n" + ends, "no base64"},
		"empty":                 {armor(nil), "no SSH signature"},
		"other bytes":           {armor([]byte("PGPSIG\x00\x00\x00\x01")), "no SSH signature"},
		"no version":            {armor([]byte(magic)), "no SSH signature"},
		"version 2":             {armor([]byte(magic + "\x00\x00\x00\x02")), "version 2"},
		"cut off":               {armor(whole[:len(whole)-1]), "cut off"},
		"more":                  {armor(append([]byte(string(whole)), 0)), "goes on after its end"},
		"a length out of range": {armor([]byte(magic + "\x00\x00\x00\x01\xff\xff\xff\xff")), "cut off"},
		"no field":              {armor([]byte(magic + "\x00\x00\x00\x01")), "cut off"},
		"a weak hash":           {armor(fields(key, namespace, "", "sha1", signed)), `hashes with "sha1"`},
		"no hash":               {armor(fields(key, namespace, "", "", signed)), `hashes with ""`},
		"another type of key":   {armor(fields(string(put(put(nil, "ssh-rsa"), "x")), namespace, "", "sha512", signed)), "of the type ssh-rsa; only ssh-ed25519"},
		"a key of hardware":     {armor(fields(string(put(put(nil, "sk-ssh-ed25519@openssh.com"), "x")), namespace, "", "sha512", signed)), "sk-ssh-ed25519@openssh.com"},
		"a type that steers":    {armor(fields(string(put(put(nil, "ssh-\x1b[2J"), "x")), namespace, "", "sha512", signed)), "no key of the type ssh-ed25519"},
		"a short key":           {armor(fields(string(put(put(nil, KeyType), "short")), namespace, "", "sha512", signed)), "key is cut off"},
		"a long key":            {armor(fields(key+"x", namespace, "", "sha512", signed)), "goes on after its end"},
		"a type of signature":   {armor(fields(key, namespace, "", "sha512", string(put(put(nil, "ssh-rsa"), string(good.bytes))))), "no signature of the type"},
		"a short signature":     {armor(fields(key, namespace, "", "sha512", string(put(put(nil, KeyType), "short")))), "no signature of the type"},
		"a long signature":      {armor(fields(key, namespace, "", "sha512", signed+"x")), "no signature of the type"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Parse(c.text)
			require.ErrorContains(t, err, c.says)
			require.Nil(t, s)
		})
	}
}

// TestEveryBitCounts: no other text is a signature of the same message by the same key.
func TestEveryBitCounts(t *testing.T) {
	_, message, text := recorded(t)
	lines := strings.Split(strings.TrimSpace(text), "\n")
	data, err := base64.StdEncoding.DecodeString(strings.Join(lines[1:len(lines)-1], ""))
	require.NoError(t, err)
	for i := range len(data) * 8 {
		bent := []byte(string(data))
		bent[i/8] ^= 1 << (i % 8)
		if s, err := Parse(armor(bent)); err == nil {
			require.False(t, s.Verify(namespace, []byte(message)), "bit %d", i)
		}
	}
}

func TestWhatIsNoKey(t *testing.T) {
	line, _, _ := recorded(t)
	for text, says := range map[string]string{
		"":            "no public key of one line",
		"ssh-ed25519": "no public key of one line",
		line + line:   "no public key of one line",
		"ssh-ed25519 AAAA" + strings.Repeat("A", MaxText): "no public key of one line",
		"ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQ":          "of the type ssh-rsa",
		"hunter2 is-secret":                               "no key of the type ssh-ed25519",
		"ssh-ed25519 hunter2!":                            "no base64",
		"ssh-ed25519 AAAA":                                "no key of the type ssh-ed25519",
		"ssh-ed25519 " + base64.StdEncoding.EncodeToString(put(put(nil, "ssh-rsa"), "x")): "of the type ssh-rsa",
		`from="*" ` + line: "no key of the type ssh-ed25519",
	} {
		_, err := ParseKey(text)
		require.ErrorContains(t, err, says)
		require.NotContains(t, err.Error(), "hunter2")
	}
}

func FuzzParse(f *testing.F) {
	_, message, text := recorded(f)
	f.Add(text, message)
	f.Add(armor(fields("", "", "", "", "")), "")
	f.Add(armor([]byte(magic+"\x00\x00\x00\x01\xff\xff\xff\xff")), "")
	line, _, _ := recorded(f)
	key, err := ParseKey(line)
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, text, said string) {
		s, err := Parse(text)
		if err != nil {
			require.Nil(t, s)
			return
		}
		again, err := Parse(s.Armor())
		require.NoError(t, err)
		require.Equal(t, s, again, "what it is read as is written the same")
		if s.Verify(namespace, []byte(said)) && s.Key.Equal(key) { // nobody has the private key any more
			require.Equal(t, message, said)
		}
	})
}
