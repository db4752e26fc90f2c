package access

import (
	"fmt"
	"io"
)

// Write writes the review for a terminal; all: with the parts of the control plane.
func (r *Review) Write(out io.Writer, all bool) {
	head := func(text string, n int) { fmt.Fprintf(out, "\n%s: %d\n", text, n) }
	rules := index(r.Roles, func(g Granted) Ref { return g.Ref })
	fmt.Fprint(out, "Access to namespace")
	for _, n := range r.Namespaces {
		fmt.Fprint(out, " ", Show(n))
	}
	fmt.Fprintln(out)
	for i, u := range r.Unread {
		fmt.Fprintln(out, "NOT_PROVEN may not be read:", u)
		if i == len(r.Unread)-1 && u.Command != "" {
			fmt.Fprintln(out, "to grant it:", u.Command)
		}
	}
	risks, system := []Risk{}, 0
	for _, x := range r.Risks {
		if x.System && !all {
			system++
			continue
		}
		risks = append(risks, x)
	}
	head("Risky grants", len(risks))
	for _, x := range risks {
		fmt.Fprintf(out, "  %-8s  %s\n            %s\n", x.Severity, x, x.Source)
	}
	if system > 0 {
		fmt.Fprintf(out, "  besides %d of the control plane, which come with Kubernetes: --all\n", system)
	}
	head("Ways to more", len(r.Paths))
	for _, p := range r.Paths {
		fmt.Fprintf(out, "  %s\n", p)
	}
	subjects := []Holder{}
	for _, h := range r.Subjects {
		if all || !h.system() {
			subjects = append(subjects, h)
		}
	}
	head("Who may do what", len(subjects))
	for _, h := range subjects {
		missing := ""
		if h.Missing {
			missing = " (not there)"
		}
		fmt.Fprintf(out, "  %s%s\n", h.Subject, missing)
		for _, g := range h.Grants {
			fmt.Fprintf(out, "    %s: %s\n", where(g.Scope), g)
			for _, rule := range rules[g.Role].Rules {
				fmt.Fprintf(out, "      %s\n", rule)
			}
		}
	}
	head("Bindings of what is not there", len(r.Dangling))
	for _, m := range r.Dangling {
		fmt.Fprintf(out, "  %s\n", m.What)
	}
	head("Accounts that nobody uses, and needless tokens", len(r.Accounts))
	for _, m := range r.Accounts {
		fmt.Fprintf(out, "  %s\n", m.What)
	}
}
