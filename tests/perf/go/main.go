// connect-ip-go between two TUN devices, as its users would write it: the benchmark's peer that
// speaks the same protocol as the gateway.
//
//	connect-ip-go proxy  ADDRESS DEVICE ASSIGNED ROUTE
//	connect-ip-go client ADDRESS DEVICE
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"time"

	connectip "github.com/quic-go/connect-ip-go"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/yosida95/uritemplate/v3"
	"golang.org/x/sys/unix"
)

const (
	// The path's MTU is 1500: no time is spent on finding that out.
	packetBytes = 1452
	bufferBytes = 2048
	version     = "connect-ip-go v0.7.0, quic-go v0.65.0"
)

var (
	template   = uritemplate.MustNew("https://bench.test/vpn")
	quicConfig = &quic.Config{EnableDatagrams: true, InitialPacketSize: packetBytes, KeepAlivePeriod: 10 * time.Second}
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "connect-ip-go:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 1 && args[0] == "--version":
		fmt.Println(version)
		return nil
	case len(args) == 5 && args[0] == "proxy":
		return proxy(args[1], args[2], args[3], args[4])
	case len(args) == 3 && args[0] == "client":
		return client(args[1], args[2])
	default:
		return errors.New("usage: proxy ADDRESS DEVICE ASSIGNED ROUTE, or client ADDRESS DEVICE")
	}
}

func proxy(address, device, assigned, route string) error {
	tun, err := open(device)
	if err != nil {
		return err
	}
	prefix, err := netip.ParsePrefix(assigned)
	if err != nil {
		return err
	}
	target, err := netip.ParseAddr(route)
	if err != nil {
		return err
	}
	certificate, err := selfSigned()
	if err != nil {
		return err
	}
	socket, err := net.ListenPacket("udp", address)
	if err != nil {
		return err
	}
	server := http3.Server{
		TLSConfig:       http3.ConfigureTLSConfig(&tls.Config{Certificates: []tls.Certificate{certificate}}),
		EnableDatagrams: true,
		QUICConfig:      quicConfig,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			request, err := connectip.ParseProxyRequest(r, template)
			if err != nil {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			tunnel, err := (&connectip.Proxy{}).Proxy(w, request)
			if err != nil {
				fmt.Fprintln(os.Stderr, "refused:", err)
				return
			}
			err = errors.Join(
				tunnel.AssignAddresses([]netip.Prefix{prefix}),
				tunnel.AdvertiseRoute([]connectip.IPRoute{{StartIP: target, EndIP: target}}),
			)
			if err == nil {
				err = carry(tun, tunnel)
			}
			fmt.Fprintln(os.Stderr, "tunnel ended:", err)
		}),
	}
	return server.Serve(socket)
}

func client(address, device string) error {
	tun, err := open(device)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	request, err := connectip.NewRequest(ctx, template)
	if err != nil {
		return err
	}
	transport := &connectip.Transport{
		// The proxy of this run made its certificate a moment ago; nobody else is in the namespaces.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true, NextProtos: []string{http3.NextProtoH3}},
		DialAddr: func(ctx context.Context, _ string, tls *tls.Config, _ *quic.Config) (*quic.Conn, error) {
			return quic.DialAddr(ctx, address, tls, quicConfig)
		},
	}
	tunnel, _, err := transport.Dial(request)
	if err != nil {
		return err
	}
	if _, err := tunnel.Routes(ctx); err != nil {
		return err
	}
	if _, err := tunnel.ReceiveAddressAssignment(ctx); err != nil {
		return err
	}
	return carry(tun, tunnel)
}

// carry moves packets both ways until one of them ends.
func carry(tun *os.File, tunnel *connectip.Conn) error {
	ended := make(chan error, 2)
	go func() {
		buffer := make([]byte, bufferBytes)
		for {
			n, err := tun.Read(buffer)
			if err != nil {
				ended <- err
				return
			}
			answer, err := tunnel.WritePacket(buffer[:n])
			if err != nil {
				ended <- err
				return
			}
			if len(answer) > 0 {
				_, _ = tun.Write(answer)
			}
		}
	}()
	go func() {
		buffer := make([]byte, bufferBytes)
		for {
			n, err := tunnel.ReadPacket(buffer)
			if err != nil {
				ended <- err
				return
			}
			// What the kernel refuses is lost.
			_, _ = tun.Write(buffer[:n])
		}
	}()
	return <-ended
}

// open takes a TUN device that is there already.
func open(device string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	request, err := unix.NewIfreq(device)
	if err != nil {
		return nil, err
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return nil, fmt.Errorf("%s: %w", device, err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), device), nil
}

func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	certificate := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		DNSNames:     []string{"bench.test"},
	}
	der, err := x509.CreateCertificate(rand.Reader, certificate, certificate, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
