package failure

// The catalogue. Add a code here and nowhere else.
const (
	BadInput           Code = "BadInput"           // an input field is unknown, mistyped or out of range
	BadConfig          Code = "BadConfig"          // the configuration file is wrong
	UnknownTarget      Code = "UnknownTarget"      // no target of that name in the configuration
	UnknownBackup      Code = "UnknownBackup"      // no backup of that id, or none at all
	UnknownRun         Code = "UnknownRun"         // no run of that id
	RunExists          Code = "RunExists"          // a run of that id was started before
	ScheduleExists     Code = "ScheduleExists"     // a schedule of that id is somebody else's
	NotWaiting         Code = "NotWaiting"         // a decision for a run that waits for none
	NotHeld            Code = "NotHeld"            // a release of a backup that nobody holds
	DatabaseExists     Code = "DatabaseExists"     // a restore would land on an existing database
	NotReplaceable     Code = "NotReplaceable"     // a database that must not be replaced
	NotApproved        Code = "NotApproved"        // a plan was rejected, or nobody decided on it
	BadSignature       Code = "BadSignature"       // a decision lacks the signature that it needs, or has one that does not count
	NotProvenEqual     Code = "NotProvenEqual"     // a copy that is to replace a database is not proven
	PlanVoid           Code = "PlanVoid"           // what an approved plan stands on has changed
	NameTaken          Code = "NameTaken"          // somebody took the final name while the copy was made
	ServerTooNew       Code = "ServerTooNew"       // the server is newer than the pg_dump at hand
	ServerTooOld       Code = "ServerTooOld"       // the server is older than what is supported, or than the backup's
	RowSecurity        Code = "RowSecurity"        // row-level security would hide rows from the reader
	RowTooLong         Code = "RowTooLong"         // a row does not fit into one protocol message
	UnloggedOnStandby  Code = "UnloggedOnStandby"  // a standby has no rows of unlogged tables
	UnsupportedName    Code = "UnsupportedName"    // a name cannot be written down faithfully
	UnsafeArchive      Code = "UnsafeArchive"      // a backup names a path that climbs out, or declares sizes out of bounds
	FormatTooNew       Code = "FormatTooNew"       // written by a newer Upkeep
	WrongPassword      Code = "WrongPassword"      // the server refused the login
	MissingSecret      Code = "MissingSecret"      // a password reference leads nowhere
	NoIdentity         Code = "NoIdentity"         // what is encrypted is asked for, and no identity is configured
	KeyUnusable        Code = "KeyUnusable"        // a repository key is not trusted, or not wrapped to our identity
	KeyLost            Code = "KeyLost"            // a repository key is missing or damaged
	MissingRight       Code = "MissingRight"       // the role may not do this
	MissingRole        Code = "MissingRole"        // the backup needs a role that the server does not have
	MissingProgram     Code = "MissingProgram"     // a program such as pg_dump or initdb is not installed
	MissingDatabase    Code = "MissingDatabase"    // the server has no such database
	DiskFull           Code = "DiskFull"           // no space left where we write
	StoreUnwritable    Code = "StoreUnwritable"    // the store refuses to be written to
	StoreLocked        Code = "StoreLocked"        // the store keeps an object from being removed or replaced for a time
	LockHeld           Code = "LockHeld"           // somebody holds a lock for longer than we wait
	RestoreBusy        Code = "RestoreBusy"        // another run works on the same copy
	SchemaKeepsMoving  Code = "SchemaKeepsMoving"  // DDL kept changing what is read, in every try
	StillFailing       Code = "StillFailing"       // something transient did not pass
	BackupDamaged      Code = "BackupDamaged"      // a file of a backup is not what was written
	BackupIncomplete   Code = "BackupIncomplete"   // what was read does not agree with the catalog
	NotEqual           Code = "NotEqual"           // the copy differs from the original
	ServerUnreachable  Code = "ServerUnreachable"  // the database server does not answer
	StoreUnreachable   Code = "StoreUnreachable"   // the object store does not answer
	Fenced             Code = "Fenced"             // a newer attempt took over; this one must stop
	ScratchUnavailable Code = "ScratchUnavailable" // the private scratch server could not be started
	CopyLost           Code = "CopyLost"           // a copy in the making is gone from its server
	NoLease            Code = "NoLease"            // the target's workflow does not answer
	NoRetention        Code = "NoRetention"        // the target's configuration does not say which backups to keep
	BackupRemoved      Code = "BackupRemoved"      // the retention removed a backup while a late attempt still took it
	ChunkRemoved       Code = "ChunkRemoved"       // something was removed that a backup used: take it again
	WorkerStopped      Code = "WorkerStopped"      // the worker was stopped in the middle of a step
	ConcurrentDDL      Code = "ConcurrentDDL"      // DDL crossed the snapshot: take a new one
	NoProof            Code = "NoProof"            // no drilled backup is young enough for what would be changed
	NoCluster          Code = "NoCluster"          // the target's configuration names no cluster
	ClusterUnreachable Code = "ClusterUnreachable" // the API server does not answer, or is too busy
	ClusterLogin       Code = "ClusterLogin"       // the API server refuses the login
	ClusterForbids     Code = "ClusterForbids"     // a right is missing, or a quota or an admission policy says no
	MissingObject      Code = "MissingObject"      // an object of the cluster that is needed is not there
	ObjectConflict     Code = "ObjectConflict"     // somebody changes the same object of the cluster at once
	ObjectRefused      Code = "ObjectRefused"      // the API server takes an object for wrong
	OwnedByOther       Code = "OwnedByOther"       // somebody else's controller would take a change back
	NotRotatable       Code = "NotRotatable"       // a secret that cannot be rotated safely
	LoginNotProven     Code = "LoginNotProven"     // a database does not take, or refuse, a login as it must
	NotStoppable       Code = "NotStoppable"       // something uses a database and cannot be stopped and started again
	NotItself          Code = "NotItself"          // a plan would stop or replace what Upkeep itself runs on
	MissingRelease     Code = "MissingRelease"     // the cluster has no such Helm release, or not that revision
	ReleaseBusy        Code = "ReleaseBusy"        // somebody else works on a Helm release, or has left it locked
	BadChart           Code = "BadChart"           // a chart cannot be loaded or rendered, or not to the same twice
	HookFailed         Code = "HookFailed"         // a hook of a Helm release failed, such as a migration
	NotReady           Code = "NotReady"           // what was applied does not become ready in time
	ApplyFailed        Code = "ApplyFailed"        // the cluster refused an object of a Helm release
	NotRecovered       Code = "NotRecovered"       // no step that may be taken brings a service back
	BadBaseline        Code = "BadBaseline"        // an accepted review of access is not as it was signed, or by a key that is not trusted
	TooManyGrants      Code = "TooManyGrants"      // a cluster has more roles and bindings than are read
	NotEditable        Code = "NotEditable"        // an update cannot be written to a file without changing more
	LockFailed         Code = "LockFailed"         // a lock file cannot be made anew
	NotAnalysed        Code = "NotAnalysed"        // it cannot be told whether code calls what is vulnerable
	UnknownPackage     Code = "UnknownPackage"     // no registry has a package of that name
	RegistrySilent     Code = "RegistrySilent"     // a registry of packages does not answer, or is too busy
	RegistryRefuses    Code = "RegistryRefuses"    // a registry wants a login, or does not give out a package
	BadAnswer          Code = "BadAnswer"          // a registry's answer cannot be understood, or has no end
	HostRefused        Code = "HostRefused"        // a repository's file names a host that may not be asked
	NoAnswer           Code = "NoAnswer"           // another run does not say how its work stands
	GitHubUnreachable  Code = "GitHubUnreachable"  // GitHub or its git server does not answer
	GitHubLimited      Code = "GitHubLimited"      // one of GitHub's limits is reached
	GitHubLogin        Code = "GitHubLogin"        // GitHub refuses the token or the app's key
	GitHubForbids      Code = "GitHubForbids"      // the token or the app may not do this
	MissingRepository  Code = "MissingRepository"  // there is no such repository, or the token may not see it
	GitHubRefused      Code = "GitHubRefused"      // GitHub takes a request for wrong
	BranchMoved        Code = "BranchMoved"        // somebody else has pushed to a branch
	PullChanged        Code = "PullChanged"        // a pull request is no longer what it was taken for
	NotMergeable       Code = "NotMergeable"       // GitHub does not let a pull request be merged now
	RepositoryTooLarge Code = "RepositoryTooLarge" // a repository has more than we read
	UnsafeRepository   Code = "UnsafeRepository"   // a repository has a name or an object that cannot be handled safely
	Internal           Code = "Internal"           // a fault of Upkeep itself
)

var catalogue = map[Code]Class{
	BadInput: InvalidInput, BadConfig: InvalidInput, BadChart: InvalidInput,
	UnknownTarget: NotFound, UnknownBackup: NotFound, UnknownRun: NotFound, MissingRelease: NotFound, UnknownPackage: NotFound,
	DatabaseExists: Precondition, ServerTooNew: Precondition, ServerTooOld: Precondition, RowSecurity: Precondition, NoIdentity: Precondition, NoRetention: Precondition,
	NotReplaceable: Precondition, PlanVoid: Precondition, BackupRemoved: Precondition, RunExists: Precondition, ScheduleExists: Precondition, CopyLost: Precondition,
	RowTooLong: Precondition, UnloggedOnStandby: Precondition, UnsupportedName: Precondition, FormatTooNew: Precondition, NoCluster: Precondition, MissingObject: Precondition,
	ObjectRefused: Precondition, NotEditable: Precondition, LockFailed: Precondition, NotAnalysed: Precondition, GitHubRefused: Precondition, BranchMoved: Precondition, PullChanged: Precondition,
	NotMergeable: Precondition, RepositoryTooLarge: Precondition, NotStoppable: Precondition, TooManyGrants: Precondition,
	NotWaiting: Refused, NotApproved: Refused, BadSignature: Refused, NotProvenEqual: Refused, NotHeld: Refused, OwnedByOther: Refused, NoProof: Refused,
	NotItself: Refused, HostRefused: Refused, NotRotatable: Refused,
	WrongPassword: NeedsPerson, MissingSecret: NeedsPerson, KeyUnusable: NeedsPerson, MissingRight: NeedsPerson, MissingRole: NeedsPerson, MissingProgram: NeedsPerson,
	MissingDatabase: NeedsPerson, DiskFull: NeedsPerson, StoreUnwritable: NeedsPerson, StoreLocked: NeedsPerson, LockHeld: NeedsPerson, RestoreBusy: NeedsPerson,
	SchemaKeepsMoving: NeedsPerson, StillFailing: NeedsPerson, ScratchUnavailable: NeedsPerson, NameTaken: NeedsPerson, ReleaseBusy: NeedsPerson, ClusterLogin: NeedsPerson,
	ClusterForbids: NeedsPerson, RegistryRefuses: NeedsPerson, GitHubLogin: NeedsPerson, GitHubForbids: NeedsPerson, MissingRepository: NeedsPerson,
	UnsafeArchive: Damaged, BackupDamaged: Damaged, KeyLost: Damaged, BackupIncomplete: Damaged, NotEqual: Damaged, HookFailed: Damaged,
	NotReady: Damaged, NotRecovered: Damaged, ApplyFailed: Damaged, BadAnswer: Damaged, UnsafeRepository: Damaged, BadBaseline: Damaged,
	LoginNotProven:    Damaged,
	ServerUnreachable: Transient, StoreUnreachable: Transient, Fenced: Transient, ConcurrentDDL: Transient, ClusterUnreachable: Transient, ObjectConflict: Transient,
	RegistrySilent: Transient, GitHubUnreachable: Transient, GitHubLimited: Transient, NoLease: Transient, ChunkRemoved: Transient, WorkerStopped: Transient,
	Internal: Transient, NoAnswer: Transient,
}
