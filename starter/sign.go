package starter

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/upkeep-run/upkeep/internal/approval"
	"github.com/upkeep-run/upkeep/internal/sshsig"
)

const (
	maxKeyFile = 64 << 10 // bytes
	// agentAnswers is how long an agent may take: it may ask a person to confirm, or to touch a key.
	agentAnswers = time.Minute
)

// signWith signs a decision with the key of a file: a private one, or a public one whose private half an SSH agent
// holds. A private key that is encrypted is not asked a passphrase for: the agent must hold it too.
func signWith(ctx context.Context, file string, message []byte) (string, error) {
	data, err := readBounded(file, maxKeyFile)
	if err != nil {
		return "", usage{fmt.Errorf("--sign-with: %w", err)}
	}
	wrong := func(format string, args ...any) error {
		return usage{fmt.Errorf("--sign-with %s: %s", file, fmt.Sprintf(format, args...))}
	}
	key, parsed := sshsig.ParseKey(string(data))
	if parsed != nil {
		private, err := ssh.ParseRawPrivateKey(data)
		var locked *ssh.PassphraseMissingError
		switch {
		case errors.As(err, &locked):
			if key, err = publicOf(locked.PublicKey); err != nil {
				return "", wrong("it is encrypted, and its format does not say which key it is; add it to an SSH agent (ssh-add), and give the .pub file")
			}
		case err != nil:
			return "", wrong("it is neither an ssh-ed25519 key of its own nor the .pub file of one")
		default:
			held, ok := private.(*ed25519.PrivateKey)
			if !ok {
				return "", wrong("only keys of the type %s count (ssh-keygen -t ed25519)", sshsig.KeyType)
			}
			return armored(held.Public().(ed25519.PublicKey), message, func(data []byte) ([]byte, error) { return ed25519.Sign(*held, data), nil })
		}
	}
	signature, err := armored(key, message, func(data []byte) ([]byte, error) { return askAgent(ctx, key, data) })
	if err != nil {
		return "", wrong("%v", err)
	}
	return signature, nil
}

func armored(key ed25519.PublicKey, message []byte, sign func([]byte) ([]byte, error)) (string, error) {
	s, err := sshsig.New(key, approval.Namespace, message, sign)
	if err != nil {
		return "", err
	}
	return s.Armor(), nil
}

func publicOf(key ssh.PublicKey) (ed25519.PublicKey, error) {
	if key == nil {
		return nil, errors.New("no key")
	}
	return sshsig.ParseKey(string(ssh.MarshalAuthorizedKey(key)))
}

// askAgent has the agent of SSH_AUTH_SOCK sign.
func askAgent(ctx context.Context, key ed25519.PublicKey, data []byte) ([]byte, error) {
	const held = "its private half must be held by an SSH agent (eval \"$(ssh-agent)\"; ssh-add KEYFILE)"
	socket := os.Getenv("SSH_AUTH_SOCK")
	if socket == "" {
		return nil, errors.New(held + ", and SSH_AUTH_SOCK names none")
	}
	ctx, cancel := context.WithTimeout(ctx, agentAnswers)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("%s, and that of SSH_AUTH_SOCK does not answer: %w", held, err)
	}
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })() // also ends a wait for the answer
	defer func() { _ = conn.Close() }()                         // nothing is written after the answer
	public, err := ssh.NewPublicKey(key)
	if err != nil {
		return nil, err
	}
	signed, err := agent.NewClient(conn).Sign(public, data)
	if err != nil {
		return nil, fmt.Errorf("%s, and that of SSH_AUTH_SOCK does not sign: %w", held, err)
	}
	return signed.Blob, nil
}

// readBounded reads a file, or stdin for "-".
func readBounded(file string, most int64) ([]byte, error) {
	from := io.Reader(os.Stdin)
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }() // it was only read
		from = f
	}
	data, err := io.ReadAll(io.LimitReader(from, most+1))
	if err == nil && int64(len(data)) > most {
		err = fmt.Errorf("it has more than %d bytes", most)
	}
	return data, err
}
