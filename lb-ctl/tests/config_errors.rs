//! Broken configurations: each is refused at the right line, under its stable code, with its cure.

use std::path::{Path, PathBuf};

use lb_ctl::{
    config::{Code, Diagnostic, Severity, load},
    model::config::Sources,
};

/// File, line, code, cure. Each file has this one fault.
#[rustfmt::skip]
const FAULTS: &[(&str, usize, Code, &str)] = &[
    ("aet-backslash", 7, Code::BadAeTitle, "use letters, digits and signs of ASCII, but no backslash"),
    ("aet-beside-any", 5, Code::MisplacedKey, "write `type = \"dicom-echo\"` beside it, or remove `called_aet`"),
    ("aet-of-connect", 5, Code::MisplacedKey, "write `type = \"dicom-echo\"` beside it, or remove `called_aet`"),
    ("aet-too-long", 5, Code::BadAeTitle, "shorten it to 16 characters, as the archive has it"),
    ("alert-to-address", 7, Code::BadMail, "write the address alone, such as \"pacs@hospital.example\""),
    ("alert-to-without-mail", 5, Code::MissingKey, "add `from = \"lb@hospital.example\"` to `[alerts]`, or remove `alert_to`"),
    ("alerts-ca-of-nothing", 3, Code::MisplacedKey, "write where to send to, or remove `ca`"),
    ("alerts-ca-unknown", 3, Code::UnknownName, "define `[pki.ca.hospital]`, or remove the reference"),
    ("alerts-from", 2, Code::MissingKey, "add `from = \"lb@hospital.example\"`"),
    ("alerts-from-address", 2, Code::BadMail, "write the address alone, such as \"pacs@hospital.example\""),
    ("alerts-group", 2, Code::OutOfRange, "write a time from \"0s\" to \"10m\""),
    ("alerts-key", 2, Code::UnknownKey, "did you mean `from`?"),
    ("alerts-password-alone", 4, Code::MissingKey, "add `user = \"lb\"`"),
    ("alerts-relay", 3, Code::BadMail, "write its name or address, with the port if need be: `relay = \"mail.hospital.example:587\"`"),
    ("alerts-repeat", 2, Code::OutOfRange, "write at least \"1m\", or \"off\" to be told once"),
    ("alerts-repeat-word", 2, Code::BadDuration, "write a number and a unit (ms, s, m, h, d): `repeat = \"24h\"`"),
    ("alerts-tls-without-relay", 3, Code::MisplacedKey, "write `relay = \"mail.hospital.example:587\"`, or remove `tls`"),
    ("alerts-tls-word", 4, Code::UnknownValue, "write `tls = \"starttls\"` or `\"tls\"` or `\"off\"`"),
    ("alerts-to-address", 3, Code::BadMail, "write the address alone, such as \"pacs@hospital.example\""),
    ("alerts-to-item", 3, Code::WrongType, "write `to = [\"pacs@hospital.example\"]`"),
    ("alerts-to-twice", 3, Code::DuplicateName, "remove one of them"),
    ("alerts-to-type", 3, Code::WrongType, "write `to = [\"pacs@hospital.example\"]`"),
    ("alerts-user-alone", 4, Code::MissingKey, "add `password_file = \"secrets/mail\"`"),
    ("alerts-user-empty", 4, Code::BadMail, "write the name that the relay knows"),
    ("alerts-webhook", 2, Code::BadUrl, "write `http://` or `https://`, a name or address and a path: \"https://hooks.example/lb\""),
    ("all-ports-any", 5, Code::CheckPort, "write it, `check = { any = [..], port = 104 }`, or `check = \"off\"`"),
    ("all-ports-check", 1, Code::CheckPort, "write it, `check = { type = \"connect\", port = 104 }`, or `check = \"off\"`"),
    ("all-ports-in-list", 4, Code::BadPort, "write `ports = \"all\"` alone"),
    ("all-ports-overlap", 11, Code::VipOverlap, "give one of them another address or port, or write `enabled = false` for it"),
    ("all-ports-own-check", 6, Code::CheckPort, "write it, `check = { type = \"http\", port = 104 }`, or `check = \"off\"`"),
    ("all-ports-rip-port", 6, Code::AllPorts, "remove the port, or write the ports that are meant: `ports = [80]`"),
    ("all-ports-server-port", 6, Code::AllPorts, "remove the port, or write the ports that are meant: `ports = [80]`"),
    ("any-deep", 5, Code::BadCheck, "write fewer lists in each other, or a script"),
    ("any-empty", 5, Code::BadCheck, "write `any = [\"connect\", { type = \"http\", port = 8080 }]`, or `type = \"off\"`"),
    ("any-interval", 5, Code::MisplacedKey, "move `interval` out of the list, beside the outermost `any` or `all`"),
    ("any-item", 5, Code::WrongType, "write `any = [\"connect\", { type = \"http\", port = 8080 }]`"),
    ("any-key", 5, Code::UnknownKey, "did you mean `path`?"),
    ("any-many", 5, Code::TooMany, "remove some, or write a script"),
    ("any-misplaced", 5, Code::MisplacedKey, "remove `port`"),
    ("any-off", 5, Code::BadCheck, "remove it, or write `type = \"off\"` for the whole check"),
    ("any-type", 5, Code::WrongType, "write `any = [\"connect\", { type = \"http\", port = 8080 }]`"),
    ("any-without-type", 5, Code::MissingKey, "add `type = \"connect\"`"),
    ("backend-cert", 5, Code::UnknownName, "did you mean \"web\"?"),
    ("backend-name", 5, Code::BadName, "write the name in the server's certificate, such as \"pacs.hospital.example\""),
    ("backend-name-unverified", 5, Code::MisplacedKey, "write the family that vouches for the servers, `verify = \"hospital\"`, or remove `name`"),
    ("backend-unknown", 5, Code::UnknownName, "did you mean \"hospital\"?"),
    ("backend-verify", 5, Code::MissingKey, "add `verify = \"hospital\"`, a family of [pki], or \"system\", or \"off\" to trust any server"),
    ("bad-duration", 5, Code::BadDuration, "write a number and a unit (ms, s, m, h, d): `idle_timeout = \"1h\"`"),
    ("bad-ip", 3, Code::BadAddress, "write an address such as \"10.12.1.100\" or \"2001:db8::100\"; host names are not looked up"),
    ("check-any-and-all", 5, Code::MisplacedKey, "keep one of them; what \"any\" or \"all\" lists may have lists of its own, not `any` and `all`"),
    ("check-later", 5, Code::NotSupported, "write `type = \"connect\"` or `\"http\"` or `\"https\"` or `\"dicom-echo\"` or `\"mllp\"` or `\"ping\"` or `\"script\"` or `\"agent\"` or `\"track\"` or `\"off\"`"),
    ("check-list", 5, Code::WrongType, "write `check = \"connect\"`"),
    ("check-source", 5, Code::BadAddress, "write a unicast address of your network"),
    ("check-source-family", 5, Code::FamilyMismatch, "write an address of the same family: checks go to the servers"),
    ("check-source-of-script", 5, Code::MisplacedKey, "remove `source`"),
    ("check-timeout", 5, Code::CheckTimeout, "write a `timeout` of at most \"2s\", or an `interval` of at least \"5s\""),
    ("check-type-and-any", 5, Code::MisplacedKey, "keep one of them; what \"any\" or \"all\" lists may have lists of its own, not `type` and `any`"),
    ("check-word", 5, Code::UnknownValue, "did you mean \"connect\"?"),
    ("cookie-name", 5, Code::BadName, "write letters, digits, `_` and `-`: \"SERVERID\""),
    ("cookie-timeout", 5, Code::MisplacedKey, "remove `timeout`"),
    ("dicom-find", 5, Code::UnknownValue, "write `find = \"study\"` or `\"patient\"` or `\"worklist\"`"),
    ("dr-path-type", 5, Code::WrongType, "write `dr_path = true`"),
    ("dr-rip-port", 5, Code::DrPort, "remove `rip_port` and let the servers listen on the VIP's port, or choose mode \"l4-nat\" or \"l4-snat\""),
    ("dr-server-port", 5, Code::DrPort, "write \"10.0.0.1\" and let the server listen on the VIP's port, or choose mode \"l4-nat\" or \"l4-snat\""),
    ("dr-server-port-key", 6, Code::DrPort, "remove `port` and let the server listen on the VIP's port, or choose mode \"l4-nat\" or \"l4-snat\""),
    ("duration-without-unit", 5, Code::BadDuration, "write the unit: `\"4000s\"` (seconds), `\"4000ms\"` (milliseconds) or `\"4000m\"` (minutes)"),
    ("extra-directive", 5, Code::BadLine, "write the line as HAProxy's manual has it, such as \"option tcpka\""),
    ("extra-lines", 5, Code::BadLine, "write each line as a text of its own"),
    ("extra-own", 5, Code::BadLine, "remove it, and write `servers`"),
    ("extra-quoted", 5, Code::BadLine, "write the line as HAProxy's manual has it, such as \"option tcpka\""),
    ("extra-section", 5, Code::BadLine, "write lines of a `listen` section alone"),
    ("extra-stick-table", 6, Code::BadLine, "write `persist = \"none\"` beside it, or remove the line"),
    ("extra-twice", 5, Code::DuplicateName, "remove one of them"),
    ("extra-type", 5, Code::WrongType, "write `haproxy_extra = [\"option tcpka\"]`"),
    ("fall-zero", 5, Code::OutOfRange, "write a number from 1 to 100"),
    ("fallback-all-ports", 5, Code::AllPorts, "write \"10.0.0.9\", or write the ports that are meant: `ports = [80]`"),
    ("fallback-dr-port", 5, Code::DrPort, "write \"10.0.0.9\" and let the server listen on the VIP's port, or choose mode \"l4-nat\" or \"l4-snat\""),
    ("fallback-family", 5, Code::FamilyMismatch, "write an address of the same family; no mode translates one into the other"),
    ("fallback-host", 5, Code::BadAddress, "write an address such as \"10.12.1.100\" or \"2001:db8::100\"; host names are not looked up"),
    ("fallback-is-server", 5, Code::DuplicateAddress, "write the address of another machine: when the fallback is needed, no server works"),
    ("fallback-is-vip", 5, Code::ServerIsVip, "write the server's own address"),
    ("fallback-page", 5, Code::UnknownValue, "write `fallback = \"reject\"` or `\"drop\"`"),
    ("fallback-port", 5, Code::BadPort, "write a port from 1 to 65535"),
    ("fallback-type", 5, Code::WrongType, "write `fallback = \"reject\"`"),
    ("fallback-word", 5, Code::UnknownValue, "did you mean \"reject\"?"),
    ("family", 5, Code::FamilyMismatch, "write an address of the same family; no mode translates one into the other"),
    ("flows-range", 2, Code::OutOfRange, "write a number from 1024 to 67108864"),
    ("gateway-address-key", 2, Code::UnknownKey, "remove it; a gateway address takes: ip, interface"),
    ("gateway-address-missing", 2, Code::MissingKey, "add `ip = \"192.168.114.250\"`"),
    ("gateway-address-type", 2, Code::WrongType, "write `addresses = [\"192.168.114.250\"]`"),
    ("gateway-interface", 2, Code::BadName, "write a name of at most 15 characters as `ip link` shows it"),
    ("gateway-is-fallback", 2, Code::TwoRoles, "write an address that nothing else has"),
    ("gateway-is-server", 2, Code::TwoRoles, "write an address that nothing else has"),
    ("gateway-is-source", 2, Code::TwoRoles, "write an address that nothing else has"),
    ("gateway-is-vip", 2, Code::TwoRoles, "write an address that nothing else has"),
    ("gateway-key", 2, Code::UnknownKey, "did you mean `addresses`?"),
    ("gateway-twice", 2, Code::DuplicateAddress, "remove one of them"),
    ("gateway-type", 2, Code::WrongType, "write `addresses = [\"192.168.114.250\"]`"),
    ("group-name", 5, Code::BadName, "write `pacs_1`: names are letters, digits, `_`, `-` and `.`"),
    ("group-prefix", 11, Code::GroupMismatch, "write the same `prefix` for both, or another `group`"),
    ("group-timeout", 11, Code::GroupMismatch, "write the same `timeout` for both, or another `group`"),
    ("group-type", 5, Code::WrongType, "write `group = \"1\"`"),
    ("group-without-addresses", 6, Code::MisplacedKey, "remove `group`"),
    ("headers-item", 5, Code::WrongType, "write `headers = [{ set = \"X-Forwarded-Proto\", value = \"https\" }]`"),
    ("headers-key", 5, Code::UnknownKey, "did you mean `value`?"),
    ("headers-name", 5, Code::BadHeader, "write letters, digits and `-`, without a colon: \"X-Forwarded-Proto\""),
    ("headers-of", 5, Code::UnknownValue, "write `of = \"request\"` or `\"response\"`"),
    ("headers-two", 5, Code::BadHeader, "write one of `set`, `add`, `delete` and `replace` with the header's name"),
    ("headers-type", 5, Code::WrongType, "write `headers = [{ set = \"X-Forwarded-Proto\", value = \"https\" }]`"),
    ("headers-pattern-groups", 5, Code::BadHeader, "write groups that `with` does not name as `(?:...)`"),
    ("headers-value", 5, Code::MissingKey, "add `value = \"https\"`"),
    ("headers-value-empty", 5, Code::BadHeader, "write one line of text: `value = \"https\"`"),
    ("headers-value-lines", 5, Code::BadHeader, "write one line of text: `value = \"https\"`"),
    ("headers-value-of-delete", 5, Code::MisplacedKey, "remove `value`"),
    ("http-aet", 5, Code::Layer7, "write `mode = \"l7-tcp\"`, or go by `host`, `path_prefix` or `sni`"),
    ("http-body-bytes", 5, Code::OutOfRange, "write a number from 1 to 1048576"),
    ("http-body-empty", 5, Code::BadCheck, "write what must be in it, or remove `body`"),
    ("http-body-key", 5, Code::UnknownKey, "did you mean `contains`?"),
    ("http-body-none", 5, Code::MissingKey, "add `contains = \"allServicesOperative\"`"),
    ("http-body-of-head", 5, Code::MisplacedKey, "write `method = \"GET\"`, or remove `body`"),
    ("http-body-regex", 5, Code::BadRegex, "correct it, with `\\` before signs that stand for themselves and in single quotes: `regex = 'v\\.1'`; plain text is `contains`"),
    ("http-body-two", 5, Code::MisplacedKey, "keep one of them; a `regex` can say both"),
    ("http-body-type", 5, Code::WrongType, "write `body = { contains = \"allServicesOperative\" }`"),
    ("http-host", 5, Code::BadCheck, "write a name or an address, with a port if need be: \"pacs.hospital.example:8080\""),
    ("http-keep-alive", 5, Code::UnknownValue, "write `keep_alive = \"both\"` or `\"off\"` or `\"client\"` or `\"pretend\"`"),
    ("http-method", 5, Code::UnknownValue, "write `method = \"GET\"` or `\"HEAD\"` or `\"OPTIONS\"` or `\"POST\"`"),
    ("http-path", 5, Code::BadCheck, "write path and query alone, beginning with `/`; the machine is the server, its name goes into `host`"),
    ("http-path-space", 5, Code::BadCheck, "write other characters as `%` and two hexadecimal digits, a space as `%20`, and no `#`"),
    ("http-path-url", 5, Code::BadCheck, "write path and query alone, beginning with `/`; the machine is the server, its name goes into `host`"),
    ("http-request-timeout", 5, Code::BadDuration, "write the unit: `\"5s\"` (seconds), `\"5ms\"` (milliseconds) or `\"5m\"` (minutes)"),
    ("http-sni", 5, Code::NeedsTls, "add `tls = { port = 443, cert = \"NAME\" }`, or go by `host`"),
    ("http-status", 5, Code::BadCheck, "write a status from 200 to 599, or a range in quotes: \"200-299\""),
    ("http-status-empty", 5, Code::BadCheck, "write `status = \"200-299\"`"),
    ("http-status-range", 5, Code::BadCheck, "write a status from 200 to 599, or a range in quotes: \"200-299\""),
    ("http-status-type", 5, Code::WrongType, "write `status = [200, \"300-399\"]`"),
    ("https-client-cert", 5, Code::UnknownName, "define `[pki.cert.lb]`, or remove the reference"),
    ("https-sni", 5, Code::BadCheck, "write the name in the server's certificate, such as \"pacs.hospital.example\""),
    ("https-verify", 7, Code::UnknownName, "did you mean \"hospital\"?"),
    ("https-verify-unknown", 5, Code::UnknownName, "define `[pki.ca.hospital]`, or remove the reference"),
    ("interface-name", 2, Code::BadName, "write a name of at most 15 characters as `ip link` shows it"),
    ("ip-with-prefix", 3, Code::BadAddress, "write the address alone, without the prefix length"),
    ("l7-all-ports", 4, Code::Layer7, "write the ports that are meant: `ports = [80]`"),
    ("l7-fallback-word", 5, Code::UnknownValue, "write `fallback = \"page\"` or `\"off\"`"),
    ("l7-last-successful", 5, Code::MisplacedKey, "write `scheduler = \"first\"`, or `persist = \"source-ip\"`"),
    ("l7-max-connections", 5, Code::OutOfRange, "write a number from 1 to 1000000"),
    ("l7-name", 1, Code::BadName, "write `R_NTGEN`: names on layer 7 are letters of ASCII, digits, `_`, `-` and `.`"),
    ("l7-overlap", 11, Code::VipOverlap, "give one of them another address or port, or write `enabled = false` for it"),
    ("l7-overlap-all", 4, Code::VipOverlap, "give one of them another address or port, or write `enabled = false` for it"),
    ("l7-overlap-tls", 11, Code::VipOverlap, "give one of them another address or port, or write `enabled = false` for it"),
    ("l7-persist-timeout", 5, Code::OutOfRange, "write a time from \"1s\" to \"24days\""),
    ("l7-protocol", 5, Code::Layer7, "write `protocol = \"tcp\"`, or choose mode \"l4-nat\" or \"l4-snat\""),
    ("l7-scheduler", 5, Code::Layer7, "write `scheduler = \"source-hash\"`, or \"wlc\", \"wrr\" or \"first\""),
    ("l7-server-fallback", 6, Code::BadName, "give it another name"),
    ("l7-server-name", 6, Code::BadName, "write `SRV-_`: names on layer 7 are letters of ASCII, digits, `_`, `-` and `.`"),
    ("l7-shared-server", 13, Code::SharedServer, "put both VIPs on one layer, or let the server listen on another port for one of them"),
    ("l7-sources", 5, Code::Layer7, "keep one of them, or write \"interface\" or \"vip\""),
    ("last-successful-scheduler", 5, Code::MisplacedKey, "write `scheduler = \"first\"`, or `persist = \"source-ip\"`"),
    ("last-successful-timeout", 6, Code::MisplacedKey, "remove `timeout`"),
    ("later-section", 3, Code::NotSupported, "remove `snmp`"),
    ("masquerade-twice", 2, Code::DuplicateName, "remove one of them"),
    ("masquerade-type", 2, Code::WrongType, "write `masquerade = [\"eth0\"]`"),
    ("max-connections", 7, Code::OutOfRange, "write a number from 0 to 65535"),
    ("min-above-max", 7, Code::BadLimits, "write `min_connections` from 0 to 40: once full, the server takes connections again when it has fewer"),
    ("min-without-max", 5, Code::BadLimits, "write the most connections that it takes: `max_connections = 100`"),
    ("missing-called-aet", 5, Code::MissingKey, "write `{ type = \"dicom-echo\", called_aet = \"ARCHIVE\" }` with the archive's AE title"),
    ("missing-ip", 2, Code::MissingKey, "add `ip = \"10.12.1.100\"`"),
    ("missing-mode", 2, Code::MissingKey, "add `mode = \"l4-dr\"`"),
    ("missing-ports", 1, Code::MissingKey, "add `ports = [104, 11112]`"),
    ("missing-servers", 1, Code::MissingKey, "add `servers = { NAME = \"10.12.1.110\" }`"),
    ("mllp-accept-alone", 5, Code::MisplacedKey, "write the `message` that is sent, or remove `accept`"),
    ("mllp-accept-code", 5, Code::BadCheck, "write one of AA, AE, AR, CA, CE, CR"),
    ("mllp-accept-empty", 5, Code::BadCheck, "write `accept = [\"AA\"]`"),
    ("mllp-accept-twice", 5, Code::DuplicateName, "remove one of them"),
    ("mllp-message", 5, Code::BadCheck, "write one HL7 message: `message = \"MSH|^~\\\\&|LBD|LBD|RECEIVER|SITE|{time}||ADT^A08|{id}|P|2.3\"`"),
    ("mode-later", 2, Code::NotSupported, "write `mode = \"l4-dr\"` or `\"l4-nat\"` or `\"l4-snat\"` or `\"l7-tcp\"` or `\"l7-http\"`"),
    ("mode-misspelt", 2, Code::UnknownValue, "did you mean \"l4-dr\"?"),
    ("mode-nat-family", 5, Code::FamilyMismatch, "write an address of the same family; no mode translates one into the other"),
    ("name-control", 5, Code::BadName, "write `A_`: names are letters, digits, `_`, `-` and `.`"),
    ("name-space", 1, Code::BadName, "write `Sectra_IDS7`: names are letters, digits, `_`, `-` and `.`"),
    ("name-too-long", 6, Code::BadName, "shorten it to 63 bytes"),
    ("nat-cookie", 5, Code::NeedsHttp, "write `mode = \"l7-http\"`, or `persist = \"source-ip\"`"),
    ("off-with-path", 5, Code::MisplacedKey, "remove `path`"),
    ("own-check-key", 5, Code::UnknownKey, "did you mean `port`?"),
    ("own-check-meaningless", 5, Code::MisplacedKey, "write `type = \"http\"` beside it, or remove `path`"),
    ("own-check-type", 5, Code::WrongType, "write `check = { port = 104 }`"),
    ("path-of-connect", 5, Code::MisplacedKey, "write `type = \"http\"` beside it, or remove `path`"),
    ("ping-port", 5, Code::MisplacedKey, "remove `port`"),
    ("pki-ca-empty", 1, Code::MissingKey, "write `members = { ca = \"pki/ca.pem\" }`"),
    ("pki-ca-members", 1, Code::MissingKey, "add `members = { ca = \"pki/ca.pem\" }`"),
    ("pki-ca-name", 1, Code::BadName, "give it another name"),
    ("pki-cert-file", 2, Code::BadName, "write `pem = \"pki/ca.pem\"`"),
    ("pki-cert-pem", 1, Code::MissingKey, "add `pem = \"pki/client-cert.pem\"`"),
    ("pki-cert-type", 2, Code::WrongType, "write a section `[pki.cert.a]` with its keys below it"),
    ("pki-key", 2, Code::UnknownKey, "did you mean `cert`?"),
    ("pki-type", 1, Code::WrongType, "write `pki = { cert = { .. }, ca = { .. } }`"),
    ("pool-and-servers", 8, Code::PoolAndServers, "move the servers into the pool, or remove `pool`"),
    ("pool-of-pool", 2, Code::MisplacedKey, "remove its `pool`: rules lead to the whole list"),
    ("pool-of-server", 6, Code::MisplacedKey, "write a rule, `switch = [{ called_aet = \"ARCHIVE\", pool = \"us\" }]` in mode \"l7-tcp\", or remove `pool`"),
    ("pool-of-server-name", 6, Code::BadName, "write `a_b`: names are letters, digits, `_`, `-` and `.`"),
    ("pool-of-server-type", 6, Code::WrongType, "write `pool = \"1\"`"),
    ("port-quoted", 4, Code::WrongType, "write numbers without quotes: `ports = [104, 11112]`"),
    ("port-range-backwards", 4, Code::BadPort, "write \"11112-11120\""),
    ("port-range-overlap", 4, Code::DuplicatePort, "remove one of them"),
    ("port-range-too-many", 1, Code::TooMany, "remove some, or write `ports = \"all\"`"),
    ("port-range-unreadable", 4, Code::BadPort, "write the first and the last port: \"11112-11120\""),
    ("port-range-vips", 10, Code::VipOverlap, "give one of them another address or port, or write `enabled = false` for it"),
    ("port-too-large", 4, Code::BadPort, "write a port from 1 to 65535"),
    ("port-twice", 4, Code::DuplicatePort, "remove one of them"),
    ("port-zero", 6, Code::BadPort, "write a port from 1 to 65535"),
    ("ports-word", 4, Code::WrongType, "write `ports = [104, 11112]`"),
    ("prefix-range", 5, Code::OutOfRange, "write a number from 1 to 32"),
    ("profile-cycle", 4, Code::ProfileCycle, "remove one `profile` key of the ring"),
    ("profile-servers", 3, Code::MisplacedKey, "move them into a `[pool.NAME]` and write `pool = \"NAME\"` here"),
    ("protocol-word", 5, Code::UnknownValue, "write `protocol = \"tcp\"` or `\"udp\"` or `\"tcp+udp\"`"),
    ("proxy-key", 2, Code::UnknownKey, "did you mean `connect_timeout`?"),
    ("proxy-listen", 2, Code::BadAddress, "write `fallback_listen = \"127.0.0.1:9081\"`"),
    ("proxy-listen-all-ports", 2, Code::VipOverlap, "write another address or port for one of them"),
    ("proxy-listen-anywhere", 2, Code::VipOverlap, "write another address or port for one of them"),
    ("proxy-listen-is-vip", 2, Code::VipOverlap, "write another address or port for one of them"),
    ("proxy-listen-port", 2, Code::BadAddress, "write `table_sync = \"127.0.0.1:7778\"`"),
    ("proxy-listen-twice", 3, Code::VipOverlap, "write another port for one of them"),
    ("proxy-max-connections", 2, Code::OutOfRange, "write a number from 1 to 1000000"),
    ("proxy-page", 2, Code::BadName, "write `fallback_page = \"pages/sorry.html\"`"),
    ("proxy-timeout", 2, Code::OutOfRange, "write a time from \"10ms\" to \"24days\""),
    ("proxy-timeout-number", 2, Code::OutOfRange, "write a time from \"10ms\" to \"24days\""),
    ("proxy-timeout-type", 2, Code::WrongType, "write `server_timeout = \"1h\"`"),
    ("proxy-type", 1, Code::WrongType, "write `proxy = { max_connections = 40000 }`"),
    ("redirect-status", 5, Code::OutOfRange, "write 301, 302, 303, 307 or 308, or \"off\""),
    ("redirect-type", 5, Code::WrongType, "write `https_redirect = 308`"),
    ("redirect-without-tls", 5, Code::NeedsTls, "add `tls = { port = 443, cert = \"NAME\" }`, or remove `https_redirect`"),
    ("reset-type", 5, Code::WrongType, "write `reset = true`"),
    ("return-word", 5, Code::UnknownValue, "write `return = \"last-hop\"` or `\"route\"`"),
    ("rip-port-range", 5, Code::BadPort, "write a port from 1 to 65535"),
    ("rip-port-type", 5, Code::WrongType, "write `rip_port = 104`"),
    ("rise-zero", 5, Code::OutOfRange, "write a number from 1 to 100"),
    ("scheduler-word", 5, Code::UnknownValue, "write `scheduler = \"wlc\"` or `\"wrr\"` or `\"maglev\"` or `\"source-hash\"` or `\"first\"`"),
    ("script-missing", 5, Code::MissingKey, "add `script = \"check-archive.sh\"`"),
    ("send-proxy-ssl", 5, Code::NeedsTls, "add `tls = { port = 443, cert = \"NAME\" }`, or write `send_proxy = \"v2\"`"),
    ("send-proxy-word", 5, Code::UnknownValue, "did you mean \"v1\"?"),
    ("server-address-port", 5, Code::BadAddress, "write `ip = \"10.0.0.1\", port = 8080`"),
    ("server-is-nat-vip", 5, Code::ServerIsVip, "write the server's own address"),
    ("server-is-vip", 5, Code::ServerIsVip, "write the server's own address; the VIP goes on its loopback interface"),
    ("server-port-large", 5, Code::BadPort, "write a port from 1 to 65535"),
    ("server-port-twice", 5, Code::DuplicateAddress, "remove one of them, or raise the weight of the other"),
    ("server-port-word", 5, Code::BadPort, "write a port from 1 to 65535"),
    ("server-port-zero", 5, Code::BadPort, "write a port from 1 to 65535"),
    ("server-twice", 7, Code::DuplicateAddress, "remove one of them, or raise the weight of the other"),
    ("slow-start-range", 5, Code::OutOfRange, "write a time from \"0s\" to \"1h\""),
    ("slow-start-unit", 5, Code::BadDuration, "write the unit: `\"30s\"` (seconds), `\"30ms\"` (milliseconds) or `\"30m\"` (minutes)"),
    ("source-bare", 5, Code::WrongType, "write `source = [\"10.0.0.5\"]`"),
    ("source-empty", 5, Code::BadAddress, "write `source = \"interface\"`, or at least one address"),
    ("source-family", 5, Code::FamilyMismatch, "write an address of the same family; no mode translates one into the other"),
    ("source-host", 5, Code::BadAddress, "write a unicast address of your network"),
    ("source-is-server", 5, Code::TwoRoles, "write an address that no server has"),
    ("source-item", 5, Code::WrongType, "write `source = [\"10.12.1.5\"]`"),
    ("source-ports", 5, Code::BadPort, "write \"10240-32767\""),
    ("source-ports-low", 5, Code::BadPort, "write the first and the last port: \"11112-11120\""),
    ("source-ports-type", 5, Code::WrongType, "write `source_ports = \"10240-32767\"`"),
    ("source-too-many", 5, Code::TooMany, "keep 16 of them: each has room for all of `source_ports`"),
    ("source-twice", 5, Code::DuplicateAddress, "remove one of them"),
    ("source-type", 5, Code::WrongType, "write `source = \"interface\"`"),
    ("source-word", 5, Code::UnknownValue, "did you mean \"interface\"?"),
    ("switch-aet-backslash", 5, Code::BadAeTitle, "use letters, digits and signs of ASCII, but no backslash"),
    ("switch-aet-long", 5, Code::BadAeTitle, "shorten it to 16 characters, as the archive has it"),
    ("switch-host", 5, Code::BadName, "write the name alone, without a port: \"viewer.hospital.example\""),
    ("switch-item", 5, Code::WrongType, "write `switch = [{ called_aet = \"ARCHIVE\", pool = \"archive\" }]`"),
    ("switch-key", 5, Code::UnknownKey, "did you mean `pool`?"),
    ("switch-path", 5, Code::BadUrl, "begin with `/`, and write other characters as `%` and two hexadecimal digits: \"/wado\""),
    ("switch-pool", 5, Code::MissingKey, "add `pool = \"archive\"`"),
    ("switch-pool-name", 5, Code::BadName, "write `_S`: names on layer 7 are letters of ASCII, digits, `_`, `-` and `.`"),
    ("switch-pool-unknown", 5, Code::UnknownName, "did you mean \"us\"?"),
    ("switch-section-name", 11, Code::DuplicateName, "rename one of them"),
    ("switch-server-twice", 9, Code::DuplicateName, "rename one of them, or write another pool in the rule"),
    ("switch-subjects", 5, Code::MisplacedKey, "write one of `called_aet`, `calling_aet`, `host`, `path_prefix` and `sni` beside `pool`"),
    ("switch-type", 5, Code::WrongType, "write `switch = [{ called_aet = \"ARCHIVE\", pool = \"archive\" }]`"),
    ("syn-repeats-word", 5, Code::UnknownValue, "did you mean \"count\"?"),
    ("syntax-duplicate-key", 5, Code::Syntax, "keep `ports` once in its section, and write keys with letters, digits, `_` and `-`"),
    ("syntax-unquoted", 3, Code::Syntax, "write text in quotes: `ip = \"10.0.0.100\"`"),
    ("tcp-cookie", 5, Code::NeedsHttp, "write `mode = \"l7-http\"`, or `persist = \"source-ip\"`"),
    ("tcp-headers", 5, Code::NeedsHttp, "write `mode = \"l7-http\"`, or remove `headers`"),
    ("tcp-host", 5, Code::NeedsHttp, "write `mode = \"l7-http\"`, or go by `sni` or AE titles"),
    ("tcp-http", 5, Code::NeedsHttp, "write `mode = \"l7-http\"`, or remove `http`"),
    ("tcp-redirect", 5, Code::NeedsHttp, "write `mode = \"l7-http\"`, or `https_redirect = \"off\"`"),
    ("tcp-url-param", 5, Code::NeedsHttp, "write `mode = \"l7-http\"`, or `persist = \"source-ip\"`"),
    ("timeouts-key", 5, Code::UnknownKey, "did you mean `client`?"),
    ("timeouts-range", 5, Code::OutOfRange, "write a time from \"10ms\" to \"24days\""),
    ("tls-ca-unknown", 5, Code::UnknownName, "did you mean \"hospital\"?"),
    ("tls-cert", 5, Code::MissingKey, "add `cert = \"viewer\"`"),
    ("tls-cert-empty", 5, Code::MissingKey, "write `cert = \"viewer\"`"),
    ("tls-cert-twice", 5, Code::DuplicateName, "remove one of them"),
    ("tls-cert-unknown", 5, Code::UnknownName, "did you mean \"web\"?"),
    ("tls-client-cert", 5, Code::MisplacedKey, "write the family of authorities, `client_ca = \"hospital\"`, or remove `client_cert`"),
    ("tls-client-cert-word", 5, Code::UnknownValue, "write `client_cert = \"required\"` or `\"optional\"`"),
    ("tls-own-port", 5, Code::DuplicatePort, "write another port, or `cleartext = false` in `tls` to serve TLS alone"),
    ("tls-port", 5, Code::MissingKey, "add `port = 443`"),
    ("tls-security", 5, Code::UnknownValue, "did you mean \"high\"?"),
    ("tls-several-ports", 6, Code::BadPort, "write its port, or `rip_port = 80`, or a VIP of its own for each port"),
    ("tls-type", 5, Code::WrongType, "write `tls = { port = 443, cert = \"viewer\" }`"),
    ("tls-unknown-key", 5, Code::UnknownKey, "did you mean `security`?"),
    ("track-itself", 5, Code::TrackCycle, "remove one `track` of the ring"),
    ("track-missing", 5, Code::MissingKey, "add `vip = \"DICOM\"`"),
    ("track-ring", 5, Code::TrackCycle, "remove one `track` of the ring"),
    ("track-unknown", 5, Code::UnknownName, "define `[vip.W]`, or remove the reference"),
    ("transparent-source", 5, Code::MisplacedKey, "remove `transparent`, or `source`"),
    ("udp-check", 1, Code::CheckUdp, "write the TCP port to ask, `check = { type = \"connect\", port = 104 }`, or `check = \"off\"`"),
    ("udp-own-check", 7, Code::CheckUdp, "write the TCP port to ask, `check = { type = \"connect\", port = 104 }`, or `check = \"off\"`"),
    ("unattended-word", 5, Code::UnknownValue, "write `unattended = \"serve\"` or `\"refuse\"`"),
    ("unintelligible-word", 5, Code::UnknownValue, "write `unintelligible = \"default\"` or `\"refuse\"`"),
    ("unknown-check-key", 5, Code::UnknownKey, "did you mean `called_aet`?"),
    ("unknown-node-key", 2, Code::UnknownKey, "did you mean `name`?"),
    ("unknown-persist-key", 5, Code::UnknownKey, "did you mean `group`?"),
    ("unknown-pool", 7, Code::UnknownName, "did you mean \"archive\"?"),
    ("unknown-pool-key", 3, Code::UnknownKey, "did you mean `servers`?"),
    ("unknown-profile", 2, Code::UnknownName, "define `[profile.dicom]`, or remove the reference"),
    ("unknown-profile-key", 3, Code::UnknownKey, "did you mean `idle_timeout`?"),
    ("unknown-section", 1, Code::UnknownKey, "did you mean `vip`?"),
    ("unknown-server-key", 6, Code::UnknownKey, "did you mean `weight`?"),
    ("unknown-vip-key", 5, Code::UnknownKey, "did you mean `scheduler`?"),
    ("url-param-entries", 5, Code::OutOfRange, "write a number from 1 to 10000000"),
    ("url-param-name", 5, Code::MissingKey, "add `name = \"shardKey\"`"),
    ("url-param-name-sign", 5, Code::BadName, "write what stands before `=` in the URL: letters, digits, `_`, `-`, `.` and `~`"),
    ("verify-of-http", 5, Code::MisplacedKey, "write `type = \"https\"` beside it, or remove `verify`"),
    ("verify-without-tls", 5, Code::MisplacedKey, "write `tls = true` beside it, or remove `verify`"),
    ("vip-loopback", 3, Code::BadAddress, "write a unicast address of your network"),
    ("vip-multicast", 3, Code::BadAddress, "write a unicast address of your network"),
    ("vip-overlap", 9, Code::VipOverlap, "give one of them another address or port, or write `enabled = false` for it"),
    ("vip-unspecified", 3, Code::BadAddress, "write a unicast address of your network"),
    ("weight-range", 5, Code::OutOfRange, "write a number from 0 to 256"),
    ("weights-zero", 6, Code::AllWeightsZero, "give one server a weight from 1 to 256, or write `enabled = false` for the VIP"),
    ("wrong-type-enabled", 5, Code::WrongType, "write `enabled = true`"),
    ("wrong-type-ports", 4, Code::WrongType, "write `ports = [104, 11112]`"),
];

/// Line, code and cure of every fault of `several.toml`.
#[rustfmt::skip]
const SEVERAL: &[(usize, Code, &str)] = &[
    (2, Code::OutOfRange, "write a number from 1024 to 67108864"),
    (4, Code::ServerIsVip, "write the server's own address; the VIP goes on its loopback interface"),
    (4, Code::BadAddress, "write an address such as \"10.12.1.100\" or \"2001:db8::100\"; host names are not looked up"),
    (8, Code::BadDuration, "write the unit: `\"3600s\"` (seconds), `\"3600ms\"` (milliseconds) or `\"3600m\"` (minutes)"),
    (12, Code::DuplicatePort, "remove one of them"),
    (13, Code::UnknownKey, "remove it; vip `ONE` takes: profile, mode, ip, ports, protocol, interface, scheduler, persist, check, alert_to, idle_timeout, fallback, slow_start, unattended, source, source_ports, return, reset, rip_port, enabled, pool, servers, tls, backend_tls, timeouts, http, https_redirect, headers, switch, unintelligible, accept_proxy, send_proxy, transparent, max_connections, haproxy_extra"),
    (14, Code::MissingKey, "add `ip = \"10.12.1.100\"`"),
    (17, Code::BadAeTitle, "write the AE title that the archive is configured with"),
    (17, Code::OutOfRange, "write a number from 1 to 100"),
    (18, Code::MissingKey, "add `mode = \"l4-dr\"`"),
    (18, Code::MissingKey, "add `servers = { NAME = \"10.12.1.110\" }`"),
    (19, Code::UnknownName, "define `[profile.e]`, or remove the reference"),
];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config_errors")
}

fn errors_of(main: &str) -> Vec<Diagnostic> {
    match load(&Sources { main: fixtures().join(main) }) {
        Ok(loaded) => panic!("{main} loads: {:?}", loaded.config),
        Err(errors) => errors.errors,
    }
}

const fn facts(error: &Diagnostic) -> (usize, Code, &str) {
    (error.place.line, error.code, error.help.as_str())
}

#[test]
fn every_fault_has_its_line_its_code_and_its_cure() {
    assert!(FAULTS.len() >= 30, "{} faults", FAULTS.len());
    for (name, line, code, cure) in FAULTS {
        let errors = errors_of(&format!("{name}.toml"));
        let [error] = errors.as_slice() else { panic!("{name} has {} errors: {errors:#?}", errors.len()) };
        assert_eq!(facts(error), (*line, *code, *cure), "{name}");
        assert!(
            error.severity == Severity::Error && error.place.column > 0 && error.place.width > 0,
            "{name}"
        );
    }
}

#[test]
fn every_file_of_the_table_is_tested() {
    for entry in std::fs::read_dir(fixtures()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let elsewhere = ["several", "two-files", "broken-beside", "script-path"].contains(&name.as_str());
        assert!(elsewhere || FAULTS.iter().any(|fault| fault.0 == name), "{name} is in no table");
    }
}

#[test]
fn all_faults_of_a_file_are_reported_at_once_in_the_order_of_its_lines() {
    let errors = errors_of("several.toml");
    assert_eq!(errors.iter().map(facts).collect::<Vec<_>>(), SEVERAL);
}

#[test]
fn a_vip_in_two_files_is_told_with_both_places() {
    let errors = errors_of("two-files/lbd.toml");
    let [error] = errors.as_slice() else { panic!("{errors:#?}") };
    assert_eq!(error.code, Code::DuplicateName);
    assert!(error.place.path.ends_with("two-files/conf.d/pacs.toml") && error.place.line == 2, "{error}");
    let (first, _) = error.also.as_ref().unwrap();
    assert!(first.path.ends_with("two-files/lbd.toml") && first.line == 1, "{error}");
}

#[test]
fn a_syntax_error_in_one_file_hides_no_fault_of_another_and_invents_none() {
    // The pool stands in the file that is broken: that it is unknown must not be said.
    let errors = errors_of("broken-beside/lbd.toml");
    let seen: Vec<_> =
        errors.iter().map(|e| (e.place.path.file_name().unwrap().to_str().unwrap(), e.code)).collect();
    assert_eq!(seen, [("lbd.toml", Code::UnknownKey), ("pools.toml", Code::Syntax)]);
    assert_eq!(errors[1].help, "write text in quotes: `A = \"10.0.0.1\"`");
}

#[test]
fn a_script_is_a_name_in_a_directory_that_is_told() {
    let errors = errors_of("script-path.toml");
    let [error] = errors.as_slice() else { panic!("{errors:#?}") };
    let directory = std::path::absolute(fixtures().join("scripts")).unwrap();
    let cure = format!("put the script into {} and write its name alone", directory.display());
    assert_eq!(facts(error), (5, Code::BadCheck, cure.as_str()));
}

#[test]
fn a_regular_expression_is_refused_with_what_is_wrong_in_one_line() {
    let errors = errors_of("http-body-regex.toml");
    assert_eq!(errors[0].message, "`regex` is no regular expression: unclosed group");
    let rendered = errors[0].to_string();
    assert!(rendered.contains("5 | check = { type = \"http\", body = { regex = \"a(b\" } }"), "{rendered}");
}

#[test]
fn a_ring_of_tracks_is_told_once_with_everybody_on_it() {
    let errors = errors_of("track-ring.toml");
    assert_eq!(errors[0].message, "vip `A` tracks itself: A -> B -> C -> A");
}

#[test]
fn a_missing_file_is_told_with_its_cure() {
    let errors = errors_of("no-such-file.toml");
    let [error] = errors.as_slice() else { panic!("{errors:#?}") };
    assert_eq!(facts(error), (0, Code::Unreadable, "create it, or name another file with `--config`"));
}

#[test]
fn a_fault_is_rendered_with_its_line_and_a_caret() {
    let rendered = errors_of("dr-server-port.toml")[0].to_string();
    let lines: Vec<_> = rendered.lines().collect();
    assert_eq!(
        lines[0],
        "error[config::dr-port]: \"10.0.0.1:8080\" names port 8080: direct routing cannot translate ports"
    );
    assert!(lines[1].ends_with("tests/config_errors/dr-server-port.toml:5:17"), "{rendered}");
    assert_eq!(
        &lines[2..],
        [
            "  |",
            "5 | servers = { A = \"10.0.0.1:8080\" }",
            "  |                 ^^^^^^^^^^^^^^^",
            "   = help: write \"10.0.0.1\" and let the server listen on the VIP's port, or choose mode \"l4-nat\" or \"l4-snat\"",
        ]
    );
}
