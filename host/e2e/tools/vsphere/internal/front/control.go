package front

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
)

// Control is the API through which a test reads the counters and sets the faults.
// It is not for the network: whoever reaches it may do anything.
func (f *Front) Control() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /calls", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, f.Calls()) })
	mux.HandleFunc("GET /calls/by-session", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, f.CallsBySession())
	})
	mux.HandleFunc("DELETE /calls", func(w http.ResponseWriter, _ *http.Request) {
		f.ResetCalls()
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("GET /faults", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, f.Faults()) })
	mux.HandleFunc("POST /faults", f.postFault)
	mux.HandleFunc("DELETE /faults", func(w http.ResponseWriter, _ *http.Request) {
		f.ClearFaults()
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("DELETE /faults/{id}", f.deleteFault)
	mux.HandleFunc("POST /down", func(w http.ResponseWriter, _ *http.Request) {
		f.Down()
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("POST /up", func(w http.ResponseWriter, _ *http.Request) {
		f.Up()
		w.WriteHeader(http.StatusNoContent)
	})
	return mux
}

func (f *Front) postFault(w http.ResponseWriter, r *http.Request) {
	fault := Fault{Nth: 1, Count: 1}
	decoder := json.NewDecoder(r.Body)
	// A misspelt field would otherwise be a fault that never strikes.
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&fault); err != nil {
		writeError(w, http.StatusBadRequest, fmt.Errorf("the fault is not understood: %w", err))
		return
	}
	added, err := f.AddFault(fault)
	if err != nil {
		writeError(w, http.StatusBadRequest, err)
		return
	}
	writeJSON(w, http.StatusCreated, added)
}

func (f *Front) deleteFault(w http.ResponseWriter, r *http.Request) {
	id, err := strconv.Atoi(r.PathValue("id"))
	if err != nil || !f.RemoveFault(id) {
		writeError(w, http.StatusNotFound, fmt.Errorf("no fault %q is pending", r.PathValue("id")))
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func writeError(w http.ResponseWriter, status int, err error) {
	writeJSON(w, status, map[string]string{"error": err.Error()})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false) // "contains" is XML
	_ = encoder.Encode(v)
}
