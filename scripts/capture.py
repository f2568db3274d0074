"""Prints one line for every IPv6 packet that arrives on a device: its outer header, and what follows it."""
import ipaddress
import socket
import sys

wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x86DD))
wire.bind((sys.argv[1], 0))
while True:
    frame, where = wire.recvfrom(65535)
    packet = frame[14:]
    # Neighbour discovery and multicast listener reports are the link's own.
    if where[2] == socket.PACKET_OUTGOING or len(packet) < 41 or packet[6] == 58 or packet[24] == 0xFF:
        continue
    source, target = (ipaddress.IPv6Address(packet[at:at + 16]) for at in (8, 24))
    print(f"outer IPv{packet[0] >> 4} {source} > {target} next-header {packet[6]} hop-limit {packet[7]}"
          f" payload {int.from_bytes(packet[4:6], 'big')} | inner IPv{packet[40] >> 4}", flush=True)
