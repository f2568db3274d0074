//! Strings with a meaning. They stay strings in the types, so that one odd object never stops a
//! watch of all others; their rules are part of the schema.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// An object's name: a DNS subdomain (RFC 1123), at most 253 characters.
pub const NAME_PATTERN: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";

/// The name of an entry of a list, or of a namespace: a DNS label (RFC 1123), at most 63 characters.
pub const LABEL_PATTERN: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";

/// A host name without wildcard and final dot.
pub const HOSTNAME_PATTERN: &str =
    r"^[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?(\.[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?)*$";

/// A duration as in Gateway API (GEP-2257): up to four integers with unit, or a plain `0`.
pub const DURATION_PATTERN: &str = r"^(0|([0-9]{1,5}(h|m|s|ms)){1,4})$";

/// The path of a URI template (RFC 6570 level 1): visible ASCII, starts with a slash.
pub const PATH_TEMPLATE_PATTERN: &str = r"^/[!-~]*$";

macro_rules! text_type {
    ($(#[$doc:meta])* $name:ident, $schema:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl $name {
            /// The text as written.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.to_owned())
            }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    };
}

text_type! {
    /// An IPv4 or IPv6 prefix without host bits, such as `10.0.0.0/16`.
    Cidr,
    json_schema!({
        "type": "string",
        "maxLength": 43,
        "x-kubernetes-validations": [
            {
                "rule": "isCIDR(self) && cidr(self).masked() == cidr(self)",
                "message": "must be a CIDR without host bits, such as 10.0.0.0/16 or fd20::/64",
                "reason": "FieldValueInvalid",
            },
        ],
    })
}

text_type! {
    /// An IPv4 or IPv6 address.
    Ip,
    json_schema!({
        "type": "string",
        "maxLength": 39,
        "x-kubernetes-validations": [
            {
                "rule": "isIP(self)",
                "message": "must be an IP address, such as 10.0.100.50 or fd20::50",
                "reason": "FieldValueInvalid",
            },
        ],
    })
}

text_type! {
    /// A duration such as `30s`, `5m` or `1h30m` (GEP-2257).
    Duration,
    json_schema!({ "type": "string", "maxLength": 32, "pattern": DURATION_PATTERN })
}

/// Why a text is not a duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DurationError;

impl fmt::Display for DurationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration is up to four integers with the units h, m, s or ms")
    }
}

impl std::error::Error for DurationError {}

impl Duration {
    /// The duration in milliseconds.
    ///
    /// # Errors
    /// When the text does not match [`DURATION_PATTERN`].
    pub fn as_millis(&self) -> Result<u64, DurationError> {
        if self.0 == "0" {
            return Ok(0);
        }
        let mut rest = self.0.as_str();
        let (mut total_ms, mut terms) = (0_u64, 0);
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            if digits == 0 || digits > 5 || terms == 4 {
                return Err(DurationError);
            }
            let (number, tail) = rest.split_at(digits);
            let number: u64 = number.parse().map_err(|_| DurationError)?;
            // "ms" before "m": the longer unit first.
            let units = [("ms", 1), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
            let unit = units
                .iter()
                .find_map(|&(u, ms)| Some((tail.strip_prefix(u)?, ms)));
            let (tail, unit_ms) = unit.ok_or(DurationError)?;
            // At most 4 * 99999 h: far below u64::MAX.
            total_ms += number * unit_ms;
            terms += 1;
            rest = tail;
        }
        if terms == 0 {
            Err(DurationError)
        } else {
            Ok(total_ms)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        let ms = |text| Duration::from(text).as_millis();
        assert_eq!(ms("0"), Ok(0));
        assert_eq!(ms("30s"), Ok(30_000));
        assert_eq!(ms("1h30m"), Ok(5_400_000));
        assert_eq!(ms("1m500ms"), Ok(60_500));
        for bad in [
            "",
            "30",
            "s",
            "1d",
            "-1s",
            "100000s",
            "1h1h1h1h1h",
            "1.5s",
            "5 m",
            "1ms5",
        ] {
            assert_eq!(ms(bad), Err(DurationError), "{bad}");
        }
    }
}
