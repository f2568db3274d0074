//! What policies in Audit mode would have denied, in the log: at most
//! [`AUDIT_NOTES_MAX`](masque_gateway_core::AUDIT_NOTES_MAX) lines a housekeeping of a shard.

use masque_gateway_core::Dataplane;
use masque_model::Direction;

/// Logs the flows that were noted since the last call.
pub(super) fn tell(shard: u16, plane: &mut Dataplane) {
    let untold = plane.take_audit_notes(|note| {
        let ports = note.ports.unzip();
        tracing::info!(
            attachment = %note.attachment,
            vpc = %note.vpc,
            rule = %note.rule,
            direction = match note.direction {
                Direction::ToVpc => "ToVPC",
                Direction::FromVpc => "FromVPC",
            },
            protocol = note.protocol,
            source = %note.source,
            source_port = ports.0,
            destination = %note.destination,
            destination_port = ports.1,
            "a rule in Audit mode would deny this flow"
        );
    });
    if untold > 0 {
        tracing::info!(
            shard,
            flows = untold,
            "and more flows than are told one by one"
        );
    }
}
