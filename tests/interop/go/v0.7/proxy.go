package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"

	connectip "github.com/quic-go/connect-ip-go"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/yosida95/uritemplate/v3"
	"masque.test/common"
)

// proxy serves until its standard input ends.
func proxy() error {
	settings := common.ReadSettings()
	tlsConfig, err := settings.TLS()
	if err != nil {
		return err
	}
	template, err := uritemplate.New(settings.Template)
	if err != nil {
		return err
	}
	socket, err := net.ListenPacket("udp", settings.Address)
	if err != nil {
		return err
	}
	server := http3.Server{
		TLSConfig:       http3.ConfigureTLSConfig(tlsConfig),
		EnableDatagrams: true,
		QUICConfig:      &quic.Config{EnableDatagrams: true, InitialPacketSize: 1350},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			request, err := connectip.ParseProxyRequest(r, template)
			if err != nil {
				var refused *connectip.ProxyRequestParseError
				if errors.As(err, &refused) {
					w.WriteHeader(refused.HTTPStatus)
				}
				return
			}
			tunnel, err := (&connectip.Proxy{}).Proxy(w, request)
			if err != nil {
				fmt.Println("error", err)
				return
			}
			serve(tunnel)
		}),
	}
	fmt.Println("listening", socket.LocalAddr())
	go func() {
		if err := server.Serve(socket); err != nil {
			fmt.Println("stopped", err)
		}
	}()
	_, _ = os.Stdin.Read(make([]byte, 1))
	return server.Close()
}

// serve assigns an address and a route, answers one address request, and echoes.
func serve(tunnel *connectip.Conn) {
	assigned := netip.MustParsePrefix("10.0.100.77/32")
	start, end := netip.MustParseAddr("10.0.0.0"), netip.MustParseAddr("10.0.255.255")
	if err := tunnel.AssignAddresses([]netip.Prefix{assigned}); err != nil {
		fmt.Println("error", err)
	}
	if err := tunnel.AdvertiseRoute([]connectip.IPRoute{{StartIP: start, EndIP: end}}); err != nil {
		fmt.Println("error", err)
	}
	go func() {
		request, err := tunnel.ReceiveAddressRequest(context.Background())
		if err != nil {
			return
		}
		refused := []netip.Prefix{netip.MustParsePrefix("::/128")}
		if err := request.Respond(refused, []netip.Prefix{assigned}); err != nil {
			fmt.Println("error", err)
		}
	}()
	packets := 0
	buffer := make([]byte, 2048)
	for {
		n, err := tunnel.ReadPacket(buffer)
		if err != nil {
			fmt.Println("packets", packets)
			return
		}
		packets++
		request := buffer[:n]
		source, destination := netip.AddrFrom4([4]byte(request[12:16])), netip.AddrFrom4([4]byte(request[16:20]))
		reply := common.EchoRequest(destination, source, binary.BigEndian.Uint16(request[26:]), n)
		reply[20], reply[22], reply[23] = 0, 0, 0
		copy(reply[24:], request[24:])
		binary.BigEndian.PutUint16(reply[22:], common.Checksum(reply[20:]))
		if _, err := tunnel.WritePacket(reply); err != nil {
			fmt.Println("error", err)
		}
	}
}
