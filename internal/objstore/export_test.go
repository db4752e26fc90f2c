package objstore

// WithoutUnnamed makes a folder behave as on a file system without unnamed files, such as NFS.
func WithoutUnnamed(s Store) { s.(*folder).named.Store(true) }
