// Package common is what the programs for both versions of connect-ip-go share: no packet and no
// setting depends on the version.
package common

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
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

// again is when a request without a reply is repeated, and patience when that ends: packets may be
// lost, and a machine that runs other tests loses some.
const again, patience = 500 * time.Millisecond, 5 * time.Second

// Ping sends echo requests of all sizes that fit, one after the other, and counts the replies.
func Ping(tunnel Packets, source, destination netip.Addr, count int) error {
	replies := make(chan []byte)
	failed := make(chan error, 1)
	go func() {
		for {
			buffer := make([]byte, 2048)
			n, err := tunnel.ReadPacket(buffer)
			if err != nil {
				failed <- err
				return
			}
			replies <- buffer[:n]
		}
	}()
	for number := range count {
		size := 28 + number*(1280-28)/max(count-1, 1)
		request := EchoRequest(source, destination, uint16(number), size)
		if err := ping(tunnel, request, replies, failed); err != nil {
			return fmt.Errorf("ping %d of %d bytes: %w", number, size, err)
		}
	}
	fmt.Println("replies", count)
	return nil
}

// ping sends one request until its reply comes. A late reply to a former request is no error.
func ping(tunnel Packets, request []byte, replies chan []byte, failed chan error) error {
	late := time.After(patience)
	for {
		// A library writes hop limit and checksum into what it is given.
		if icmp, err := tunnel.WritePacket(slices.Clone(request)); err != nil || icmp != nil {
			return fmt.Errorf("%v %x", err, icmp)
		}
		repeat := time.After(again)
		for waiting := true; waiting; {
			select {
			case reply := <-replies:
				former, err := check(request, reply)
				if err != nil || !former {
					return err
				}
			case err := <-failed:
				return err
			case <-repeat:
				waiting = false
			case <-late:
				return errors.New("no reply")
			}
		}
	}
}

// check compares a reply with its request, and says whether it belongs to a former one.
func check(request, reply []byte) (former bool, err error) {
	if len(reply) < 28 || reply[20] != 0 || Checksum(reply[20:]) != 0 ||
		!bytes.Equal(reply[12:16], request[16:20]) {
		return false, fmt.Errorf("came back as %x", reply)
	}
	number, asked := binary.BigEndian.Uint16(reply[26:]), binary.BigEndian.Uint16(request[26:])
	if number < asked {
		return true, nil
	}
	if number > asked || len(reply) != len(request) || !bytes.Equal(reply[28:], request[28:]) {
		return false, fmt.Errorf("came back as %x", reply)
	}
	return false, nil
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
