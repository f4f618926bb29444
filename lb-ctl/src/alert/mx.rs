//! Which servers take the mail of a domain (RFC 5321 5.1, RFC 7505).

use hickory_resolver::{TokioResolver, proto::rr::RData};

/// Servers that are tried; more are not.
const MAX_SERVERS: usize = 5;

/// The servers of a domain, the preferred ones first. An address in brackets is its own server.
///
/// # Errors
///
/// When no name server answers, or the domain takes no mail.
pub(super) async fn servers(domain: &str) -> Result<Vec<String>, String> {
    if let Some(literal) = domain.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let address = literal.strip_prefix("IPv6:").unwrap_or(literal);
        return Ok(vec![address.to_owned()]);
    }
    let failed = |error: &dyn std::fmt::Display| {
        format!(
            "cannot ask for the mail servers (MX) of {domain}: {error}: check /etc/resolv.conf, or set `alerts.relay`"
        )
    };
    // Made anew each time: what /etc/resolv.conf says may have changed, and mail is rare.
    let resolver = TokioResolver::builder_tokio().and_then(|builder| builder.build());
    let resolver = resolver.map_err(|error| failed(&error))?;
    // The dot keeps the search list out of it.
    let records = match resolver.mx_lookup(format!("{}.", domain.trim_end_matches('.'))).await {
        Ok(found) => found
            .answers()
            .iter()
            .filter_map(|record| {
                let RData::MX(mx) = &record.data else { return None };
                Some((mx.preference, mx.exchange.to_utf8()))
            })
            .collect(),
        Err(error) if error.is_no_records_found() => Vec::new(),
        Err(error) => return Err(failed(&error)),
    };
    in_order(domain, records)
}

fn in_order(domain: &str, mut records: Vec<(u16, String)>) -> Result<Vec<String>, String> {
    records.sort();
    let names: Vec<String> =
        records.iter().map(|(_, name)| name.trim_end_matches('.').to_owned()).take(MAX_SERVERS).collect();
    match names.as_slice() {
        // The domain itself is its server (RFC 5321 5.1).
        [] => Ok(vec![domain.to_owned()]),
        // RFC 7505 3.
        [none] if none.is_empty() => Err(format!(
            "{domain} takes no mail (its MX is \".\"): correct the address in `alerts.to` or `alert_to`"
        )),
        _ => Ok(names),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_come_in_the_order_of_preference_and_a_domain_without_any_is_its_own() {
        let record = |preference, name: &str| (preference, name.to_owned());
        let of = |records| in_order("hospital.example", records);
        assert_eq!(
            of(vec![record(20, "b.example."), record(5, "c.example."), record(10, "a.example.")]).unwrap(),
            ["c.example", "a.example", "b.example"]
        );
        assert_eq!(of(Vec::new()).unwrap(), ["hospital.example"]);
        assert!(of(vec![record(0, ".")]).unwrap_err().contains("takes no mail"));
        let many = (0..20).map(|n| record(n, "a.example.")).collect();
        assert_eq!(of(many).unwrap().len(), MAX_SERVERS);
    }

    #[tokio::test]
    async fn an_address_in_brackets_is_asked_of_nobody() {
        assert_eq!(servers("[10.12.1.9]").await.unwrap(), ["10.12.1.9"]);
        assert_eq!(servers("[IPv6:fd10::9]").await.unwrap(), ["fd10::9"]);
    }
}
