// A client that is connect-ip-go v0.1.0 and nothing else: it says on standard output, line by line,
// what it was assigned, what it may reach and how many of its pings came back.
package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"time"

	connectip "github.com/quic-go/connect-ip-go"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/yosida95/uritemplate/v3"
	"masque.test/common"
)

func main() {
	if err := run(); err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
}

func run() error {
	settings := common.ReadSettings()
	tlsConfig, err := settings.TLS()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	quicConfig := &quic.Config{EnableDatagrams: true, InitialPacketSize: 1350}
	conn, err := quic.DialAddr(ctx, settings.Address, tlsConfig, quicConfig)
	if err != nil {
		return err
	}
	transport := &http3.Transport{EnableDatagrams: true}
	template, err := uritemplate.New(settings.Template)
	if err != nil {
		return err
	}
	tunnel, response, err := connectip.Dial(ctx, transport.NewClientConn(conn), template)
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
	prefixes, err := tunnel.LocalPrefixes(ctx)
	if err != nil {
		return err
	}
	for _, prefix := range prefixes {
		fmt.Println("assigned", prefix)
	}
	if err := common.Ping(tunnel, firstV4(prefixes), settings.Workload, settings.Pings); err != nil {
		return err
	}
	if err := common.TooBig(tunnel, firstV4(prefixes), settings.Workload); err != nil {
		return err
	}
	if err := tunnel.Close(); err != nil {
		return err
	}
	// What is closed leaves before the connection does.
	time.Sleep(100 * time.Millisecond)
	fmt.Println("closed")
	return conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
}

func firstV4(prefixes []netip.Prefix) netip.Addr {
	for _, prefix := range prefixes {
		if prefix.Addr().Is4() {
			return prefix.Addr()
		}
	}
	return netip.Addr{}
}
