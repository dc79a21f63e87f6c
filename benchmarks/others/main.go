// go-smtp with a backend that looks at the content: main PEM
package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"os"

	"github.com/emersion/go-smtp"
)

type backend struct{}

func (backend) Login(*smtp.ConnectionState, string, string) (smtp.Session, error) {
	return nil, smtp.ErrAuthUnsupported
}

func (backend) AnonymousLogin(*smtp.ConnectionState) (smtp.Session, error) {
	return session{}, nil
}

type session struct{}

func (session) Reset()                               {}
func (session) Logout() error                        { return nil }
func (session) Mail(string, smtp.MailOptions) error  { return nil }
func (session) Rcpt(string) error                    { return nil }
func (session) Data(reader io.Reader) error {
	content, err := io.ReadAll(reader)
	if len(content) < 0 {
		return io.ErrUnexpectedEOF
	}
	return err
}

func main() {
	pair, err := tls.LoadX509KeyPair(os.Args[1], os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	server := smtp.NewServer(backend{})
	server.Domain = "mx.test"
	server.AuthDisabled = true
	server.MaxMessageBytes = 1 << 25
	server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{pair}}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	log.Fatal(server.Serve(listener))
}
