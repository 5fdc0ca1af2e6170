// A WebSocket hub on gorilla/websocket: every message of a client goes to all clients. A client
// has a read pump and a write pump, a bounded queue between hub and write pump, and is dropped
// when that is full. It has one topic only, which is less work than Ringway does.
package main

import (
	"flag"
	"log"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

const (
	writeWait   = 10 * time.Second
	pongWait    = 35 * time.Second
	pingPeriod  = 25 * time.Second
	messageMax  = 64 << 10
	queueLength = 256
)

// Connections that do not write share their write buffers.
var upgrader = websocket.Upgrader{
	ReadBufferSize:  1024,
	WriteBufferSize: 1024,
	WriteBufferPool: &sync.Pool{},
	CheckOrigin:     func(*http.Request) bool { return true },
}

type client struct {
	connection *websocket.Conn
	queue      chan *websocket.PreparedMessage
}

// hub owns the set of clients; all that happens to it comes through its channels.
type hub struct {
	clients    map[*client]struct{}
	register   chan *client
	unregister chan *client
	broadcast  chan *websocket.PreparedMessage
}

func (h *hub) run() {
	for {
		select {
		case c := <-h.register:
			h.clients[c] = struct{}{}
		case c := <-h.unregister:
			h.remove(c)
		case message := <-h.broadcast:
			for c := range h.clients {
				select {
				case c.queue <- message:
				default:
					h.remove(c)
				}
			}
		}
	}
}

func (h *hub) remove(c *client) {
	if _, ok := h.clients[c]; ok {
		delete(h.clients, c)
		close(c.queue)
	}
}

// expectPongs sets what a client may send and how long it may be silent.
func expectPongs(connection *websocket.Conn) {
	connection.SetReadLimit(messageMax)
	connection.SetReadDeadline(time.Now().Add(pongWait))
	connection.SetPongHandler(func(string) error {
		return connection.SetReadDeadline(time.Now().Add(pongWait))
	})
}

// readPump hands what the client sends to the hub, encoded once for all.
func (c *client) readPump(h *hub) {
	defer func() {
		h.unregister <- c
		c.connection.Close()
	}()
	expectPongs(c.connection)
	for {
		kind, payload, err := c.connection.ReadMessage()
		if err != nil {
			return
		}
		message, err := websocket.NewPreparedMessage(kind, payload)
		if err != nil {
			return
		}
		h.broadcast <- message
	}
}

// writePump writes what is queued, and pings.
func (c *client) writePump() {
	ticker := time.NewTicker(pingPeriod)
	defer func() {
		ticker.Stop()
		c.connection.Close()
	}()
	for {
		select {
		case message, ok := <-c.queue:
			c.connection.SetWriteDeadline(time.Now().Add(writeWait))
			if !ok {
				c.connection.WriteMessage(websocket.CloseMessage, nil)
				return
			}
			if c.connection.WritePreparedMessage(message) != nil {
				return
			}
		case <-ticker.C:
			c.connection.SetWriteDeadline(time.Now().Add(writeWait))
			if c.connection.WriteMessage(websocket.PingMessage, nil) != nil {
				return
			}
		}
	}
}

func echo(response http.ResponseWriter, request *http.Request) {
	connection, err := upgrader.Upgrade(response, request, nil)
	if err != nil {
		return
	}
	defer connection.Close()
	connection.SetReadLimit(messageMax)
	for {
		kind, payload, err := connection.ReadMessage()
		if err != nil {
			return
		}
		connection.SetWriteDeadline(time.Now().Add(writeWait))
		if connection.WriteMessage(kind, payload) != nil {
			return
		}
	}
}

func main() {
	address := flag.String("listen", "127.0.0.1:9100", "address to serve")
	flag.Parse()
	h := &hub{
		clients:    make(map[*client]struct{}),
		register:   make(chan *client),
		unregister: make(chan *client),
		broadcast:  make(chan *websocket.PreparedMessage, 4096),
	}
	go h.run()
	http.HandleFunc("/echo", echo)
	http.HandleFunc("/ws/", func(response http.ResponseWriter, request *http.Request) {
		connection, err := upgrader.Upgrade(response, request, nil)
		if err != nil {
			return
		}
		c := &client{connection, make(chan *websocket.PreparedMessage, queueLength)}
		h.register <- c
		go c.writePump()
		go c.readPump(h)
	})
	listener, err := net.Listen("tcp4", *address)
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.Serve(listener, nil))
}
