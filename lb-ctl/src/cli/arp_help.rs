//! `lbctl arp-help`: what a real server behind direct routing needs, as commands to paste. The VIP goes onto loopback, so
//! that the server takes its packets; and the server keeps quiet about it, so that clients go on asking the load balancer.

use std::{io::Write, net::IpAddr, path::Path};

use super::{
    Done, RunError, Terminal,
    args::{ArpHelpArgs, System},
    names::find_vip,
    offline,
};
use crate::{api::client::Client, model::config::Mode};

pub(super) async fn arp_help(
    client: &Client,
    terminal: &mut Terminal<impl Write, impl Write>,
    args: &ArpHelpArgs,
) -> Result<Done, RunError> {
    let (name, ip, mode) = match (args.vip.parse(), &args.config) {
        (Ok(ip), _) => (None, ip, None),
        (Err(_), Some(file)) => in_file(file, &args.vip).await?,
        (Err(_), None) => {
            let status = client.status().await?;
            let vip = find_vip(&status, &args.vip).map_err(RunError::Unknown)?;
            (Some(vip.name.clone()), vip.ip, Some(vip.mode))
        }
    };
    if let (Some(name), Some(mode @ (Mode::L4Nat | Mode::L4Snat))) = (&name, mode) {
        writeln!(
            terminal.err,
            "warning: VIP {name} is {}: its servers never see the VIP, and need none of this",
            mode.name()
        )?;
    }
    let who = name.map_or_else(|| format!("VIP {ip}"), |name| format!("VIP {name}, {ip},"));
    terminal.out.write_all(commands(args.system, &who, ip).as_bytes())?;
    Ok(Done::Well)
}

async fn in_file(file: &Path, name: &str) -> Result<(Option<String>, IpAddr, Option<Mode>), RunError> {
    let config = offline::load(file).await.map_err(RunError::Local)?.config;
    let vip = config.vips.iter().find(|vip| vip.name == name);
    let vip = vip.ok_or_else(|| {
        let names: Vec<&str> = config.vips.iter().map(|vip| vip.name.as_str()).collect();
        RunError::Unknown(format!("no VIP {name} in {}: there are {}", file.display(), names.join(", ")))
    })?;
    Ok((Some(vip.name.clone()), vip.ip, Some(vip.mode)))
}

/// Commands and comments for a system. `who` is the VIP for people.
fn commands(system: System, who: &str, ip: IpAddr) -> String {
    match system {
        System::Linux => linux(who, ip),
        System::Macos => macos(who, ip),
        System::Windows => windows(who, ip),
    }
}

fn linux(who: &str, ip: IpAddr) -> String {
    // IPv6 needs nothing to keep quiet: neighbour discovery answers for addresses of the interface that was asked alone. The
    // address is deprecated, so that nothing is sent from it but answers.
    let (family, length, options) = match ip {
        IpAddr::V4(_) => (4, 32, ""),
        IpAddr::V6(_) => (6, 128, " nodad preferred_lft 0"),
    };
    let quiet = match ip {
        IpAddr::V4(_) => {
            "\
# Keep quiet about it: answer ARP for addresses of the interface that was asked, and ask from no other.
cat > /etc/sysctl.d/90-lbd-arp.conf <<'END'
net.ipv4.conf.all.arp_ignore = 1
net.ipv4.conf.all.arp_announce = 2
END
sysctl -q -p /etc/sysctl.d/90-lbd-arp.conf

"
        }
        IpAddr::V6(_) => "",
    };
    let put = format!("ip -{family} address replace {ip}/{length} dev lo{options}");
    let unit = format!("lbd-vip-{}.service", ip.to_string().replace(':', "-"));
    format!(
        "\
# {who} on a real server with Linux. Paste it into a shell of root; doing so again does no harm.

{quiet}# Put it on loopback, and take it off interfaces that others can ask.
ip -o -{family} address show to {ip}/{length} | while read -r _ dev _ address _; do
    [ \"$dev\" = lo ] || ip address del \"$address\" dev \"$dev\"
done
{put}

# Do so at each start, with systemd.
if [ -d /run/systemd/system ]; then
cat > /etc/systemd/system/{unit} <<'END'
[Unit]
Description=VIP {ip} on loopback, for direct routing
Before=network-online.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c '{put}'

[Install]
WantedBy=multi-user.target
END
systemctl daemon-reload && systemctl --quiet enable {unit}
fi
# Without systemd: in /etc/network/interfaces, under `iface lo inet loopback`, a line
#     up {put}

# The service must listen on the VIP too (bind it to all addresses), and the firewall must let its packets in.
"
    )
}

fn windows(who: &str, ip: IpAddr) -> String {
    let (family, version, length, component) = match ip {
        IpAddr::V4(_) => ("IPv4", "ipv4", 32, "ms_tcpip"),
        IpAddr::V6(_) => ("IPv6", "ipv6", 128, "ms_tcpip6"),
    };
    let netsh_address = match ip {
        IpAddr::V4(_) => format!("\"loopback\" {ip} 255.255.255.255"),
        IpAddr::V6(_) => format!("\"loopback\" {ip}/128"),
    };
    format!(
        "\
# {who} on a real server with Windows (Server 2012 or later). For a PowerShell of an administrator. Network Load Balancing
# must be off.

# 1. Once for each server: a loopback adapter. Run hdwwiz, choose: install manually, Network adapters, Microsoft, Microsoft
#    KM-TEST Loopback Adapter. Then call it `loopback`, and switch off everything on it but {family}. Where VIPs of the other
#    family are on it too, leave that one on.
Get-NetAdapter | Where-Object InterfaceDescription -like '*Loopback Adapter*' | Rename-NetAdapter -NewName 'loopback'
Disable-NetAdapterBinding -Name 'loopback' -AllBindings
Enable-NetAdapterBinding -Name 'loopback' -ComponentID {component}

# 2. Let packets for the VIP in by the adapter that they come by, and their answers out. Put its name here, as Get-NetAdapter
#    spells it.
$net = 'net'
Set-NetIPInterface -InterfaceAlias 'loopback' -AddressFamily {family} -WeakHostReceive Enabled -WeakHostSend Enabled -DadTransmits 0
Set-NetIPInterface -InterfaceAlias $net -AddressFamily {family} -WeakHostReceive Enabled

# 3. Put the VIP on it. Nobody asks the loopback adapter, so nobody gets an answer.
New-NetIPAddress -InterfaceAlias 'loopback' -IPAddress {ip} -PrefixLength {length} -SkipAsSource $true
Set-DnsClient -InterfaceAlias 'loopback' -RegisterThisConnectionsAddress $false

# All of it outlives a restart. Steps 2 and 3 with netsh, in a cmd.exe of an administrator:
#     netsh interface {version} set interface \"net\" weakhostreceive=enabled
#     netsh interface {version} set interface \"loopback\" weakhostreceive=enabled
#     netsh interface {version} set interface \"loopback\" weakhostsend=enabled
#     netsh interface {version} add address {netsh_address}

# The service must listen on the VIP too (bind it to all addresses), and the firewall must let its packets in.
"
    )
}

fn macos(who: &str, ip: IpAddr) -> String {
    let alias = match ip {
        IpAddr::V4(_) => format!("lo0 alias {ip} netmask 255.255.255.255"),
        IpAddr::V6(_) => format!("lo0 inet6 {ip} prefixlen 128 alias"),
    };
    let words: String = alias.split(' ').map(|word| format!("<string>{word}</string>")).collect();
    let label = format!("lbd.vip.{}", ip.to_string().replace(':', "-"));
    format!(
        "\
# {who} on a real server with macOS. Paste it into a shell.

# Put it on loopback; macOS answers ARP and neighbour discovery for addresses of the interface that was asked alone.
sudo ifconfig {alias}

# Do so at each start.
sudo tee /Library/LaunchDaemons/{label}.plist > /dev/null <<'END'
<?xml version=\"1.0\" encoding=\"UTF-8\"?>
<!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">
<plist version=\"1.0\"><dict>
<key>Label</key><string>{label}</string>
<key>ProgramArguments</key><array><string>/sbin/ifconfig</string>{words}</array>
<key>RunAtLoad</key><true/>
</dict></plist>
END
sudo launchctl bootstrap system /Library/LaunchDaemons/{label}.plist

# The service must listen on the VIP too (bind it to all addresses), and the firewall must let its packets in.
"
    )
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 12, 1, 100));

    fn v6() -> IpAddr {
        "fd12::100".parse().unwrap()
    }

    #[test]
    fn what_is_for_a_shell_is_understood_by_one() {
        for (system, ip) in
            [(System::Linux, V4), (System::Linux, v6()), (System::Macos, V4), (System::Macos, v6())]
        {
            let text = commands(system, "VIP DICOM", ip);
            let checked = Command::new("sh").args(["-n", "-c", &text]).output().unwrap();
            assert!(checked.status.success() && checked.stderr.is_empty(), "{checked:?}\n{text}");
        }
    }

    #[test]
    fn every_system_gets_the_address_in_its_own_words_and_nothing_of_the_other_family() {
        let has = |system, ip, words: &[&str], not: &[&str]| {
            let text = commands(system, "VIP DICOM, 10.12.1.100,", ip);
            for word in words {
                assert!(text.contains(word), "{word} is missing:\n{text}");
            }
            for word in not {
                assert!(!text.contains(word), "{word} is too much:\n{text}");
            }
        };
        let linux_v4 = [
            "VIP DICOM",
            "arp_ignore = 1",
            "arp_announce = 2",
            "ip -4 address replace 10.12.1.100/32 dev lo\n",
            "lbd-vip-10.12.1.100.service",
        ];
        has(System::Linux, V4, &linux_v4, &["-6", "nodad"]);
        has(
            System::Linux,
            v6(),
            &["ip -6 address replace fd12::100/128 dev lo nodad"],
            &["arp_ignore", "-4"],
        );
        let windows_v4 = [
            "-PrefixLength 32",
            "-AddressFamily IPv4 -WeakHostReceive Enabled -WeakHostSend Enabled",
            "netsh interface ipv4 set interface \"net\" weakhostreceive=enabled",
            "add address \"loopback\" 10.12.1.100 255.255.255.255",
        ];
        has(System::Windows, V4, &windows_v4, &["IPv6", "ipv6"]);
        has(
            System::Windows,
            v6(),
            &["-PrefixLength 128", "ipv6 add address \"loopback\" fd12::100/128"],
            &["IPv4"],
        );
        has(System::Macos, V4, &["ifconfig lo0 alias 10.12.1.100 netmask 255.255.255.255"], &["inet6"]);
        has(System::Macos, v6(), &["ifconfig lo0 inet6 fd12::100 prefixlen 128 alias"], &["netmask"]);
    }
}
