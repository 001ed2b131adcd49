// SPDX-License-Identifier: Apache-2.0

package qmp

import (
	"encoding/json"
	"sync"
	"time"
)

// EventQueue is how many events a subscription keeps that nobody reads.
const EventQueue = 256

// Event is what a monitor says unasked.
type Event struct {
	Name string
	// Data is the event's data as it came, nil if it had none.
	Data json.RawMessage
	// Time is when the monitor's host saw it happen, to the microsecond; zero
	// if the host could not tell.
	Time time.Time
	// Dropped counts the events that this subscription has lost up to this one
	// because they were not read in time.
	Dropped uint64
}

// wireTime is an event's time stamp; both fields are -1 where QEMU has no clock.
type wireTime struct {
	Seconds      int64 `json:"seconds"`
	Microseconds int64 `json:"microseconds"`
}

func (t wireTime) time() time.Time {
	if t.Seconds < 0 || t.Microseconds < 0 || t == (wireTime{}) {
		return time.Time{}
	}
	return time.Unix(t.Seconds, t.Microseconds*1000)
}

type subscription struct {
	names   map[string]bool // nil: all
	call    func(Event)     // of Watch; nil: ch is used
	ch      chan Event
	dropped uint64
}

// Subscribe returns a channel with the events of the given names from now on,
// all events if none are given, and a function that ends the subscription and
// closes the channel. The channel is also closed when the connection ends.
//
// Events that are not read do not stop the client: the newest EventQueue are
// kept, and Event.Dropped tells of the others.
func (c *Client) Subscribe(events ...string) (<-chan Event, func()) {
	s := &subscription{ch: make(chan Event, EventQueue)}
	if len(events) > 0 {
		s.names = make(map[string]bool, len(events))
		for _, e := range events {
			s.names[e] = true
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		close(s.ch)
		return s.ch, func() {}
	}
	c.subs[s] = struct{}{}
	return s.ch, sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if _, ok := c.subs[s]; ok {
			delete(c.subs, s)
			close(s.ch)
		}
	})
}

// publish gives an event to those who want it.
func (c *Client) publish(m *message) {
	e := Event{Name: m.Event, Data: m.Data, Time: m.Timestamp.time()}
	if c.onEvent != nil {
		c.onEvent(e)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for s := range c.subs {
		switch {
		case s.names != nil && !s.names[e.Name]:
		case s.call != nil:
			s.call(e)
		default:
			s.put(e)
		}
	}
}

// Watch calls f with every event of the given names from now on, in its place: before anything that the monitor said
// after it is handed out. f must return soon and must not call the client. The function that Watch returns ends that; f
// is not called any more when it has returned.
func (c *Client) Watch(f func(Event), events ...string) (end func()) {
	s := &subscription{call: f, names: make(map[string]bool, len(events))}
	for _, e := range events {
		s.names[e] = true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.subs[s] = struct{}{}
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.subs, s)
	}
}

// put never blocks: where the queue is full the oldest event makes room.
func (s *subscription) put(e Event) {
	for {
		e.Dropped = s.dropped
		select {
		case s.ch <- e:
			return
		default:
		}
		select {
		case <-s.ch:
			s.dropped++
		default:
		}
	}
}
