// Go's net/http: `go_http PORT`. A flush per event, as its examples have it.
package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
)

type order struct {
	ID       int      `json:"id"`
	Customer string   `json:"customer"`
	Total    float64  `json:"total"`
	Paid     bool     `json:"paid"`
	Items    []string `json:"items"`
}

const text = "The quick brown fox jumps over it"

func event(data, kind string) []byte {
	if kind != "" {
		kind = "event: " + kind + "\r\n"
	}
	return []byte(kind + "data: " + data + "\r\n\r\n")
}

var (
	message = event(text, "tick")
	plain   = event(text, "")
	kib     = event(strings.Repeat(text, 32)[:1024], "tick")
	sample  = order{1234567, "Ada Lovelace", 129.5, true, []string{"tea", "biscuits"}}
)

func next(path string) []byte {
	switch path {
	case "strings":
		return plain
	case "kib":
		return kib
	case "typed":
		encoded, _ := json.Marshal(sample)
		return []byte("data: " + string(encoded) + "\r\n\r\n")
	case "built":
		return []byte(fmt.Sprintf("id: %d\r\nevent: %s\r\ndata: %s\r\n\r\n", 1234567, "tick", text))
	}
	return message
}

func stream(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path[1:]
	if path == "plain" {
		fmt.Fprint(w, "data: ")
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	flush := w.(http.Flusher).Flush
	send := func(item []byte) {
		w.Write(item)
		flush()
	}
	events, _ := strconv.Atoi(r.URL.Query().Get("events"))
	switch path {
	case "one":
		send(message)
		<-r.Context().Done()
	case "beat":
		send(message)
		beats := time.NewTicker(time.Second)
		defer beats.Stop()
		for {
			select {
			case <-beats.C:
				send([]byte(": ping\r\n\r\n"))
			case <-r.Context().Done():
				return
			}
		}
	case "queue":
		queue := make(chan []byte, 100)
		go func() {
			for i := 0; i < events; i++ {
				queue <- message
			}
		}()
		for i := 0; i < events; i++ {
			send(<-queue)
		}
	default:
		for i := 0; i < events; i++ {
			send(next(path))
			if path == "tick" {
				runtime.Gosched()
			}
		}
	}
}

func main() {
	runtime.GOMAXPROCS(1) // one core, as the others
	if err := http.ListenAndServe("127.0.0.1:"+os.Args[1], http.HandlerFunc(stream)); err != nil {
		panic(err)
	}
}
