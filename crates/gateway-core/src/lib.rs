//! Sessions, address book, policy and routing: packet, datagram and time in; verdicts, events and deadlines out.
