package front

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"net/http"
)

const (
	soapNamespace = "http://schemas.xmlsoap.org/soap/envelope/"
	sessionCookie = "vmware_soap_session"
)

// call is what the front needs to know of one request.
type call struct {
	method string // the SOAP method, or "GET /path" for a request that is none
	this   string // the managed object id, such as "propertyCollector"
	// The cookie of the caller's session; empty before the login.
	session string
	body    []byte
}

// readCall names the request without understanding it: the first element of the
// SOAP body is the method, and its `_this` is the managed object.
func readCall(r *http.Request, body []byte) call {
	c := call{method: r.Method + " " + r.URL.Path, body: body}
	if cookie, err := r.Cookie(sessionCookie); err == nil {
		c.session = cookie.Value
	}
	if r.Method != http.MethodPost {
		return c
	}

	decoder := xml.NewDecoder(bytes.NewReader(body))
	inBody, inMethod := false, false
	for {
		token, err := decoder.Token()
		if err != nil {
			return c
		}
		start, ok := token.(xml.StartElement)
		switch {
		case !ok:
		case inMethod:
			if start.Name.Local == "_this" {
				_ = decoder.DecodeElement(&c.this, &start)
			}
			return c
		case inBody:
			c.method, inMethod = start.Name.Local, true
		case start.Name.Space == soapNamespace && start.Name.Local == "Body":
			inBody = true
		}
	}
}

// soapFault is the reply of a call that failed with the vim25 fault of that type.
func soapFault(kind string) []byte {
	return fmt.Appendf(nil, xml.Header+
		`<soapenv:Envelope xmlns:soapenv=%q xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><soapenv:Body>`+
		`<soapenv:Fault><faultcode>ServerFaultCode</faultcode><faultstring>injected %[2]s</faultstring>`+
		`<detail><%[2]sFault xmlns="urn:vim25" xsi:type=%[2]q></%[2]sFault></detail></soapenv:Fault>`+
		`</soapenv:Body></soapenv:Envelope>`, soapNamespace, kind)
}

func cancelWaitEnvelope(collector string) []byte {
	var id bytes.Buffer
	_ = xml.EscapeText(&id, []byte(collector))
	return fmt.Appendf(nil, xml.Header+
		`<soapenv:Envelope xmlns:soapenv=%q><soapenv:Body><CancelWaitForUpdates xmlns="urn:vim25">`+
		`<_this type="PropertyCollector">%s</_this></CancelWaitForUpdates></soapenv:Body></soapenv:Envelope>`,
		soapNamespace, id.Bytes())
}
