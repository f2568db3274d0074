// A client, or with MODE=proxy a proxy, that is connect-ip-go v0.7.0 and nothing else: it says on
// standard output, line by line, what it saw.
package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/netip"
	"os"
	"time"

	connectip "github.com/quic-go/connect-ip-go"
	"github.com/quic-go/quic-go"
	"github.com/yosida95/uritemplate/v3"
	"masque.test/common"
)

func main() {
	run := client
	if os.Getenv("MODE") == "proxy" {
		run = proxy
	}
	if err := run(); err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
}

func client() error {
	settings := common.ReadSettings()
	tlsConfig, err := settings.TLS()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	template, err := uritemplate.New(settings.Template)
	if err != nil {
		return err
	}
	request, err := connectip.NewRequest(ctx, template)
	if err != nil {
		return err
	}
	transport := &connectip.Transport{
		TLSClientConfig: tlsConfig,
		DialAddr: func(ctx context.Context, _ string, tls *tls.Config, config *quic.Config) (*quic.Conn, error) {
			return quic.DialAddr(ctx, settings.Address, tls, config)
		},
	}
	tunnel, response, err := transport.Dial(request)
	if response != nil {
		fmt.Println("status", response.StatusCode)
	}
	if err != nil {
		return err
	}
	routes, err := tunnel.Routes(ctx)
	if err != nil {
		return err
	}
	for _, route := range routes {
		fmt.Println("route", route.StartIP, route.EndIP, route.IPProtocol)
	}
	source, err := assigned(ctx, tunnel, "assigned")
	if err != nil {
		return err
	}
	if err := common.Ping(tunnel, source, settings.Workload, settings.Pings); err != nil {
		return err
	}
	if err := common.TooBig(tunnel, source, settings.Workload); err != nil {
		return err
	}
	if _, err := tunnel.RequestAddresses([]netip.Prefix{
		netip.MustParsePrefix("0.0.0.0/32"), netip.MustParsePrefix("::/128"),
	}); err != nil {
		return err
	}
	if _, err := assigned(ctx, tunnel, "answered"); err != nil {
		return err
	}
	if err := tunnel.Close(); err != nil {
		return err
	}
	fmt.Println("closed")
	return nil
}

// assigned shows the next assignment, and gives its first IPv4 address.
func assigned(ctx context.Context, tunnel *connectip.Conn, word string) (source netip.Addr, err error) {
	list, err := tunnel.ReceiveAddressAssignment(ctx)
	for _, entry := range list {
		fmt.Println(word, entry.IPPrefix, entry.RequestID != 0, entry.Rejected())
		if entry.IPPrefix.Addr().Is4() && !entry.Rejected() && !source.IsValid() {
			source = entry.IPPrefix.Addr()
		}
	}
	return source, err
}
