// SPDX-License-Identifier: Apache-2.0

package qmp

import "sync"

// queueLength is how many commands wait at most with out-of-band execution
// enabled (QMP_REQ_QUEUE_LEN_MAX). The reader stops when it has queued the last.
const queueLength = 8

// queue holds the commands of a session that are not out of band.
type queue struct {
	mu     sync.Mutex
	change sync.Cond
	items  []*Request
	closed bool
}

func newQueue() *queue {
	q := new(queue)
	q.change.L = &q.mu
	return q
}

// push adds r and waits while the queue is full.
func (q *queue) push(r *Request) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.items = append(q.items, r)
	q.change.Broadcast()
	for len(q.items) >= queueLength && !q.closed {
		q.change.Wait()
	}
}

// pop waits for the next command; nil is the end.
func (q *queue) pop() *Request {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.items) == 0 && !q.closed {
		q.change.Wait()
	}
	if q.closed {
		return nil
	}
	r := q.items[0]
	q.items = append(q.items[:0], q.items[1:]...)
	q.change.Broadcast()
	return r
}

// close ends the queue and returns what has not been popped.
func (q *queue) close() []*Request {
	q.mu.Lock()
	defer q.mu.Unlock()
	left := q.items
	q.items, q.closed = nil, true
	q.change.Broadcast()
	return left
}
