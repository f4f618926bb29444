//! The stable names of faults.

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)+) => {
        /// Stable names of faults, for scripts and searches.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub enum Code {
            $($(#[$doc])* $variant,)+
        }

        impl Code {
            /// As shown: `config::unknown-key`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!("config::", $name),)+
                }
            }
        }
    };
}

codes! {
    /// Port translation of a VIP with every port.
    AllPorts = "all-ports",
    /// Every server of a VIP has weight 0.
    AllWeightsZero = "all-weights-zero",
    /// An address that cannot be a VIP or a server.
    BadAddress = "bad-address",
    /// A DICOM application entity title outside PS3.5 6.2.
    BadAeTitle = "bad-ae-title",
    /// A value that a check cannot work with.
    BadCheck = "bad-check",
    /// Not a duration with a unit.
    BadDuration = "bad-duration",
    /// Limits of a server's connections that contradict each other.
    BadLimits = "bad-limits",
    /// Not an address of mail, or not a relay.
    BadMail = "bad-mail",
    /// A name that the command line or the kernel's records cannot carry.
    BadName = "bad-name",
    /// A header, or a rule for one, that HTTP does not know.
    BadHeader = "bad-header",
    /// A raw line that has no place in a VIP's section of the proxy's configuration.
    BadLine = "bad-line",
    /// Not a port, or none.
    BadPort = "bad-port",
    /// Not a regular expression.
    BadRegex = "bad-regex",
    /// Not an address of the web.
    BadUrl = "bad-url",
    /// Warning: the servers of a VIP are not checked.
    CheckOff = "check-off",
    /// A check that cannot end before the next one begins.
    CheckTimeout = "check-timeout",
    /// A check of a VIP with every port, without a port of its own.
    CheckPort = "check-port",
    /// A TCP check of a UDP service without a port of its own.
    CheckUdp = "check-udp",
    /// Warning: a password that anybody on the way can read.
    Cleartext = "cleartext",
    /// Port translation with direct routing (R01).
    DrPort = "dr-port",
    /// The same address twice in one VIP.
    DuplicateAddress = "duplicate-address",
    /// The same name in two files.
    DuplicateName = "duplicate-name",
    /// The same port twice in one VIP.
    DuplicatePort = "duplicate-port",
    /// VIP and server of different address families.
    FamilyMismatch = "family-mismatch",
    /// VIPs of one persistence group that remember clients in different ways.
    GroupMismatch = "group-mismatch",
    /// Something that the companion proxy cannot do.
    Layer7 = "layer7",
    /// A key that means nothing beside another one.
    MisplacedKey = "misplaced-key",
    /// A required key is not there.
    MissingKey = "missing-key",
    /// Something of HTTP in a mode that does not read it.
    NeedsHttp = "needs-http",
    /// Something of TLS for a VIP without it.
    NeedsTls = "needs-tls",
    /// Warning: a VIP with an empty list of servers.
    NoServers = "no-servers",
    /// Something of the product that this version has not got.
    NotSupported = "not-supported",
    /// A number or time outside its range.
    OutOfRange = "out-of-range",
    /// `pool` and `servers` in one place.
    PoolAndServers = "pool-and-servers",
    /// Profiles that rest on each other.
    ProfileCycle = "profile-cycle",
    /// Warning: a setting that another one makes pointless.
    Redundant = "redundant",
    /// A server that is this load balancer.
    ServerIsVip = "server-is-vip",
    /// A server and its port behind a layer-7 VIP and a layer-4 SNAT VIP (R05).
    SharedServer = "shared-server",
    /// Warning: values of persistence that may be cut to the same one.
    ShortKey = "short-key",
    /// Warning: a port without TLS beside one that asks clients for certificates.
    SideDoor = "side-door",
    /// Not TOML.
    Syntax = "syntax",
    /// VIPs whose checks go by each other.
    TrackCycle = "track-cycle",
    /// More than the kernel's tables hold.
    TooMany = "too-many",
    /// A file cannot be read; a warning where it is not needed yet.
    Unreadable = "unreadable",
    /// A gateway or SNAT source address that is something else besides.
    TwoRoles = "two-roles",
    /// A key that does not exist.
    UnknownKey = "unknown-key",
    /// A name that nothing has.
    UnknownName = "unknown-name",
    /// A word that is not one of those possible.
    UnknownValue = "unknown-value",
    /// Warning: something with a name that nothing uses.
    Unused = "unused",
    /// Two VIPs with the same address, port and protocol.
    VipOverlap = "vip-overlap",
    /// A string where a number belongs, and the like.
    WrongType = "wrong-type",
}
