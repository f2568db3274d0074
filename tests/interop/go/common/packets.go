// Package common is what the programs for both versions of connect-ip-go share: no packet and no
// setting depends on the version.
package common

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"time"
)

// Settings are what the test says in the environment.
type Settings struct {
	Address, Template, serverName, roots, certificate, key string
	// Workload is whom to ping, and Pings how often.
	Workload netip.Addr
	Pings    int
}

// ReadSettings reads them.
func ReadSettings() Settings {
	pings, _ := strconv.Atoi(os.Getenv("PINGS"))
	return Settings{
		Address:     os.Getenv("ADDRESS"),
		Template:    os.Getenv("TEMPLATE"),
		serverName:  os.Getenv("SERVER_NAME"),
		roots:       os.Getenv("ROOTS"),
		certificate: os.Getenv("CERTIFICATE"),
		key:         os.Getenv("KEY"),
		Workload:    netip.MustParseAddr(os.Getenv("WORKLOAD")),
		Pings:       pings,
	}
}

// TLS trusts the roots alone, and shows the certificate if there is one.
func (s Settings) TLS() (*tls.Config, error) {
	pem, err := os.ReadFile(s.roots)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, errors.New("no root")
	}
	config := &tls.Config{RootCAs: roots, ServerName: s.serverName, NextProtos: []string{"h3"}}
	if s.certificate != "" {
		pair, err := tls.LoadX509KeyPair(s.certificate, s.key)
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// Packets is a tunnel of either version.
type Packets interface {
	ReadPacket([]byte) (int, error)
	WritePacket([]byte) ([]byte, error)
}

// Ping sends echo requests of all sizes that fit, one after the other, and counts the replies.
func Ping(tunnel Packets, source, destination netip.Addr, count int) error {
	replies := 0
	buffer := make([]byte, 2048)
	for number := range count {
		size := 28 + number*(1280-28)/max(count-1, 1)
		request := EchoRequest(source, destination, uint16(number), size)
		if icmp, err := tunnel.WritePacket(request); err != nil || icmp != nil {
			return fmt.Errorf("ping %d of %d bytes: %v %x", number, size, err, icmp)
		}
		timer := time.AfterFunc(5*time.Second, func() {
			fmt.Println("error no reply to ping", number)
			os.Exit(1)
		})
		n, err := tunnel.ReadPacket(buffer)
		timer.Stop()
		if err != nil {
			return err
		}
		reply := buffer[:n]
		if n != size || reply[20] != 0 || binary.BigEndian.Uint16(reply[26:]) != uint16(number) ||
			netip.AddrFrom4([4]byte(reply[12:16])) != destination || Checksum(reply[20:]) != 0 {
			return fmt.Errorf("ping %d of %d bytes came back as %x", number, size, reply)
		}
		replies++
	}
	fmt.Println("replies", replies)
	return nil
}

// TooBig writes what no path here carries, which the library answers itself.
func TooBig(tunnel Packets, source, destination netip.Addr) error {
	icmp, err := tunnel.WritePacket(EchoRequest(source, destination, 0, 3000))
	if err != nil {
		return err
	}
	if icmp != nil {
		fmt.Println("too-big", icmp[20], icmp[21])
	}
	return nil
}

// EchoRequest is an ICMP echo request of size bytes in an IPv4 packet.
func EchoRequest(source, destination netip.Addr, sequence uint16, size int) []byte {
	packet := make([]byte, size)
	packet[0], packet[8], packet[9] = 0x45, 64, 1
	binary.BigEndian.PutUint16(packet[2:], uint16(size))
	copy(packet[12:], source.AsSlice())
	copy(packet[16:], destination.AsSlice())
	binary.BigEndian.PutUint16(packet[10:], Checksum(packet[:20]))
	packet[20] = 8
	binary.BigEndian.PutUint16(packet[24:], 7)
	binary.BigEndian.PutUint16(packet[26:], sequence)
	for i := 28; i < size; i++ {
		packet[i] = byte(i)
	}
	binary.BigEndian.PutUint16(packet[22:], Checksum(packet[20:]))
	return packet
}

// Checksum is the Internet checksum (RFC 1071).
func Checksum(data []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(data); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(data[i:]))
	}
	if len(data)%2 == 1 {
		sum += uint32(data[len(data)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
