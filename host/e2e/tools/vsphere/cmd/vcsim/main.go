// Command vcsim is govmomi's vCenter simulator behind a front that counts calls
// and makes them fail. See ../../../README.md for its flags and its control API.
package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/vmware/govmomi/simulator"
	vapi "github.com/vmware/govmomi/vapi/simulator"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"vmgroup.local/e2e/tools/vsphere/internal/certificate"
	"vmgroup.local/e2e/tools/vsphere/internal/front"
	"vmgroup.local/e2e/tools/vsphere/internal/inventory"
)

func main() {
	log.SetFlags(log.Ltime | log.Lmicroseconds)
	log.SetPrefix("vcsim: ")
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

// ready is the one line on standard output, written when all is served.
type ready struct {
	// The vCenter, through the front.
	URL string `json:"url"`
	// The same vCenter past the front: neither counted nor struck, and up in an
	// outage. For the test's own look at the world.
	Direct string `json:"direct"`
	User   string `json:"user"`
	Pass   string `json:"pass"`
	// Another user, of the same rights: for whoever is not the one under test. This
	// password stays.
	AdminUser string `json:"adminUser"`
	AdminPass string `json:"adminPass"`
	// Base of the control API.
	Control string `json:"control"`
	// The root certificate: the file of -ca-out, or else its PEM; none without TLS.
	CA string `json:"ca,omitempty"`
}

type options struct {
	listen, direct, control string
	tls, dieWithStdin       bool
	user, pass              string
	adminUser, adminPass    string
	caOut                   string
	size                    inventory.Size
	folders, templates      names
	taskDelay               string
}

type names []string

func (n *names) String() string { return strings.Join(*n, ",") }
func (n *names) Set(s string) error {
	if s == "" {
		return errors.New("empty name")
	}
	*n = append(*n, s)
	return nil
}

func parseFlags() options {
	var o options
	flag.StringVar(&o.listen, "listen", "127.0.0.1:0", "address of the vCenter")
	flag.StringVar(&o.direct, "direct", "127.0.0.1:0", "address of the same vCenter past the front")
	flag.StringVar(&o.control, "control", "127.0.0.1:0", "loopback address of the control API")
	flag.BoolVar(&o.tls, "tls", true, "serve https, with a certificate made for this run")
	flag.StringVar(&o.caOut, "ca-out", "", "write the root certificate to this `file`")
	flag.StringVar(&o.user, "user", "user", "the user who is given to the client under test")
	flag.StringVar(&o.pass, "pass", "pass", "that user's password, until PUT /password")
	flag.StringVar(&o.adminUser, "admin-user", "admin", "the only other user who may log in")
	flag.StringVar(&o.adminPass, "admin-pass", "admin", "that user's password")
	flag.BoolVar(&o.dieWithStdin, "die-with-stdin", false, "exit when standard input closes")
	flag.IntVar(&o.size.Datacenters, "dc", 1, "datacenters")
	flag.IntVar(&o.size.Clusters, "cluster", 1, "clusters per datacenter")
	flag.IntVar(&o.size.Hosts, "host", 3, "hosts per cluster")
	flag.IntVar(&o.size.StandaloneHosts, "standalone-host", 0, "hosts per datacenter outside its clusters")
	flag.IntVar(&o.size.Pools, "pool", 0, "resource pools per cluster, besides Resources")
	flag.IntVar(&o.size.Datastores, "ds", 1, "datastores per datacenter")
	flag.IntVar(&o.size.VMs, "vm", 0, "sample VMs per cluster and standalone host")
	flag.Var(&o.templates, "template", "create a template of this `name` in each datacenter's vm folder (repeatable)")
	flag.Var(&o.folders, "folder", "create a folder of this `name` in each datacenter's vm folder (repeatable)")
	flag.StringVar(&o.taskDelay, "task-delay", "", "`milliseconds` that tasks take, as in CloneVM:1000,PowerOnVM:50")
	flag.BoolVar(&simulator.Trace, "trace", false, "write all SOAP traffic to standard error")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(flag.CommandLine.Output(), "unexpected argument %q\n", flag.Arg(0))
		flag.Usage()
		os.Exit(2)
	}
	return o
}

func run() error {
	o := parseFlags()
	delays, err := inventory.ParseTaskDelays(o.taskDelay)
	if err != nil {
		return fmt.Errorf("-task-delay: %w", err)
	}
	if o.user == "" || o.pass == "" || o.adminUser == "" || o.adminPass == "" {
		return errors.New("-user, -pass, -admin-user and -admin-pass must not be empty")
	}
	if o.caOut != "" && !o.tls {
		return errors.New("-ca-out makes no sense with -tls=false")
	}

	// All that the simulator writes goes below this folder.
	scratch, err := os.MkdirTemp("", "vcsim-")
	if err != nil {
		return fmt.Errorf("making a folder for the datastores: %w", err)
	}
	defer os.RemoveAll(scratch)
	if err := os.Setenv("TMPDIR", scratch); err != nil {
		return err
	}
	go func() {
		awaitEnd(o.dieWithStdin)
		// Not by way of run: building a large inventory cannot be interrupted.
		// It may also still write, and then removing fails half-way.
		for range 100 {
			if os.RemoveAll(scratch) == nil {
				break
			}
		}
		os.Exit(0)
	}()

	model, err := inventory.New(context.Background(), o.size, o.folders, o.templates)
	if err != nil {
		return err
	}
	// Only now, or the templates would take that long too.
	inventory.SetTaskDelays(delays)

	failed := make(chan error, 3)
	line, err := serve(o, model, failed)
	if err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(line); err != nil {
		return fmt.Errorf("saying that it is ready: %w", err)
	}
	return <-failed
}

// awaitEnd returns on a signal to end, or when standard input closes if asked.
func awaitEnd(withStdin bool) {
	end := make(chan os.Signal, 1)
	signal.Notify(end, os.Interrupt, syscall.SIGTERM)
	closed := make(chan struct{})
	if withStdin {
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			close(closed)
		}()
	}
	select {
	case <-end:
	case <-closed:
	}
}

// serve opens the three listeners and returns where they are.
func serve(o options, model *simulator.Model, failed chan<- error) (*ready, error) {
	controlListener, err := listenLoopback(o.control)
	if err != nil {
		return nil, fmt.Errorf("-control: %w", err)
	}
	listener, err := net.Listen("tcp", o.listen)
	if err != nil {
		return nil, fmt.Errorf("-listen: %w", err)
	}
	directListener, err := net.Listen("tcp", o.direct)
	if err != nil {
		return nil, fmt.Errorf("-direct: %w", err)
	}
	line := &ready{
		User: o.user, Pass: o.pass, AdminUser: o.adminUser, AdminPass: o.adminPass,
		Control: "http://" + controlListener.Addr().String(),
	}

	var secure *tls.Config
	scheme := "http"
	if o.tls {
		scheme = "https"
		cert, root, err := certificate.New(listener.Addr().(*net.TCPAddr).IP.String())
		if err != nil {
			return nil, err
		}
		secure = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
		line.CA = string(root)
		if o.caOut != "" {
			if err := os.WriteFile(o.caOut, root, 0o644); err != nil {
				return nil, fmt.Errorf("-ca-out: %w", err)
			}
			line.CA = o.caOut
		}
	}
	sdk := url.URL{Scheme: scheme, Host: listener.Addr().String(), Path: model.Map().Path}
	line.URL = sdk.String()
	line.Direct = (&url.URL{Scheme: scheme, Host: directListener.Addr().String(), Path: sdk.Path}).String()

	var password atomic.Pointer[string]
	password.Store(&o.pass)
	backend := handler(model, sdk, func(login *types.Login) bool {
		return login.UserName == o.user && login.Password == *password.Load() ||
			login.UserName == o.adminUser && login.Password == o.adminPass
	})
	vcenter := front.New(backend)
	control := vcenter.Control()
	control.HandleFunc("DELETE /sessions", func(w http.ResponseWriter, r *http.Request) {
		if err := terminateSessions(r.Context(), model.Service); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})

	control.HandleFunc("PUT /password", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(io.LimitReader(r.Body, 1024))
		if err != nil || len(body) == 0 {
			http.Error(w, "the new password is the body, as it is", http.StatusBadRequest)
			return
		}
		next := string(body)
		password.Store(&next)
		w.WriteHeader(http.StatusNoContent)
	})

	start := func(server *http.Server, l net.Listener) {
		go func() { failed <- server.Serve(l) }()
	}
	start(vcenter.Server(), withTLS(vcenter.Listen(listener), secure))
	start(&http.Server{Handler: backend, Protocols: vcenter.Server().Protocols}, withTLS(directListener, secure))
	start(&http.Server{Handler: control}, controlListener)
	return line, nil
}

func listenLoopback(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	if !l.Addr().(*net.TCPAddr).IP.IsLoopback() {
		_ = l.Close()
		return nil, fmt.Errorf("%s is not a loopback address, and whoever reaches the control API may do anything", address)
	}
	return l, nil
}

func withTLS(l net.Listener, config *tls.Config) net.Listener {
	if config == nil {
		return l
	}
	return tls.NewListener(l, config)
}

// handler is the simulator without a listener of its own. It does what
// simulator.Service.NewServer does, as far as SOAP clients and those of the REST API
// notice.
func handler(model *simulator.Model, sdk url.URL, validLogin func(*types.Login) bool) http.Handler {
	service := model.Service
	// Without a user here, or with the simulator's own DefaultLogin, it takes anybody
	// and does not ask validLogin.
	sdk.User = url.User("asked")
	service.Listen = &sdk
	sessions := model.Map().SessionManager()
	sessions.ServiceHostName = sdk.Host
	sessions.ValidLogin = validLogin
	service.RegisterSDK(model.Map(), sdk.Path+"/vimService")
	service.ServeMux.HandleFunc(sdk.Path+"/vimServiceVersions.xml", service.ServiceVersions)
	service.ServeMux.HandleFunc("/folder/", service.ServeDatastore)
	service.ServeMux.HandleFunc("/about", service.About)
	// Tags.
	patterns, rest := vapi.New(service.Listen, model.Map())
	for _, pattern := range patterns {
		service.Handle(pattern, rest)
	}
	return service.ServeMux
}

// terminateSessions ends every client's session.
func terminateSessions(ctx context.Context, service *simulator.Service) error {
	client, err := vim25.NewClient(ctx, service)
	if err != nil {
		return err
	}
	var manager mo.SessionManager
	if err := mo.RetrieveProperties(ctx, client, client.ServiceContent.PropertyCollector,
		*client.ServiceContent.SessionManager, &manager); err != nil {
		return err
	}
	req := types.TerminateSession{This: *client.ServiceContent.SessionManager}
	for _, session := range manager.SessionList {
		req.SessionId = append(req.SessionId, session.Key)
	}
	_, err = methods.TerminateSession(ctx, client, &req)
	return err
}
