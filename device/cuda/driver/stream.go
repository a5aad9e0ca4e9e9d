package driver

import (
	"time"
	"unsafe"
)

// NewStream makes a queue that does not wait for the default stream. Lower priorities go first; 0 is the usual one.
func (a *API) NewStream(priority int) (Stream, error) {
	const nonBlocking = 1
	var s uintptr
	err := a.check("cuStreamCreateWithPriority", a.c.StreamCreate.Call(uintptr(unsafe.Pointer(&s)), nonBlocking, uintptr(priority)))
	return Stream(s), err
}

// CloseStream frees a queue once its work is done.
func (a *API) CloseStream(s Stream) error {
	return a.check("cuStreamDestroy", a.c.StreamDestroy.Call(uintptr(s)))
}

// Sync waits for the queue.
func (a *API) Sync(s Stream) error {
	return a.check("cuStreamSynchronize", a.c.StreamSync.Call(uintptr(s)))
}

// Wait makes later work of the queue wait for an event.
func (a *API) Wait(s Stream, e Event) error {
	return a.check("cuStreamWaitEvent", a.c.StreamWait.Call(uintptr(s), uintptr(e), 0))
}

// NewEvent makes an event; only timed ones have a time.
func (a *API) NewEvent(timed bool) (Event, error) {
	flags := uintptr(2) // no timing
	if timed {
		flags = 0
	}
	var e uintptr
	err := a.check("cuEventCreate", a.c.EventCreate.Call(uintptr(unsafe.Pointer(&e)), flags))
	return Event(e), err
}

// CloseEvent frees an event.
func (a *API) CloseEvent(e Event) error {
	return a.check("cuEventDestroy", a.c.EventDestroy.Call(uintptr(e)))
}

// Record puts the event at the present end of a queue.
func (a *API) Record(e Event, s Stream) error {
	return a.check("cuEventRecord", a.c.EventRecord.Call(uintptr(e), uintptr(s)))
}

// SyncEvent waits for an event.
func (a *API) SyncEvent(e Event) error {
	return a.check("cuEventSynchronize", a.c.EventSync.Call(uintptr(e)))
}

// Elapsed is the time between two timed events that have happened, in steps of about half a microsecond.
func (a *API) Elapsed(from, to Event) (time.Duration, error) {
	var ms float32
	err := a.check("cuEventElapsedTime", a.c.EventElapsed.Call(uintptr(unsafe.Pointer(&ms)), uintptr(from), uintptr(to)))
	return time.Duration(float64(ms) * 1e6), err
}

// BeginCapturing records what is enqueued on the queue instead of running it. Calls of the same thread that cannot be recorded end the
// recording; EndCapturing must come from that thread.
func (a *API) BeginCapturing(s Stream) error {
	const threadLocal = 1
	return a.check("cuStreamBeginCapture", a.c.BeginCapture.Call(uintptr(s), threadLocal))
}

// EndCapturing returns what was recorded.
func (a *API) EndCapturing(s Stream) (Graph, error) {
	var g uintptr
	err := a.check("cuStreamEndCapture", a.c.EndCapture.Call(uintptr(s), uintptr(unsafe.Pointer(&g))))
	return Graph(g), err
}

// Nodes is how many pieces of work a graph has.
func (a *API) Nodes(g Graph) (int, error) {
	var n uint64
	err := a.check("cuGraphGetNodes", a.c.GraphNodes.Call(uintptr(g), 0, uintptr(unsafe.Pointer(&n))))
	return int(n), err
}

// Prepare makes a graph ready to be launched.
func (a *API) Prepare(g Graph) (GraphExec, error) {
	var x uintptr
	err := a.check("cuGraphInstantiate", a.c.Instantiate.Call(uintptr(unsafe.Pointer(&x)), uintptr(g), 0))
	return GraphExec(x), err
}

// LaunchGraph enqueues a graph.
func (a *API) LaunchGraph(x GraphExec, s Stream) error {
	return a.check("cuGraphLaunch", a.c.GraphLaunch.Call(uintptr(x), uintptr(s)))
}

// CloseGraph frees a graph.
func (a *API) CloseGraph(g Graph) error {
	return a.check("cuGraphDestroy", a.c.GraphDestroy.Call(uintptr(g)))
}

// CloseExec frees a prepared graph; one that is running is freed when it is done.
func (a *API) CloseExec(x GraphExec) error {
	return a.check("cuGraphExecDestroy", a.c.ExecDestroy.Call(uintptr(x)))
}
