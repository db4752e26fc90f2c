package github

import "context"

// ReleaseNotes is what the makers say of the release of a tag; empty when there is no such release.
func (c *Client) ReleaseNotes(ctx context.Context, tag string) (string, error) {
	r, _, err := c.api.Repositories.GetReleaseByTag(ctx, c.owner, c.name, tag)
	switch {
	case err == nil:
		return r.GetBody(), nil
	case status(err) == 404:
		return "", nil
	}
	return "", classify(err, "the release "+tag+" of "+c.full())
}
