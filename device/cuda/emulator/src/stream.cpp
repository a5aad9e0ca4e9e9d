// Streams, events and recorded graphs of the emulated device. Work is done in as odd an order as the program's waits allow, or as late, or
// (setting streams) at the call. So a wait that is missing shows as a wrong result.
#include <algorithm>
#include <deque>
#include <memory>
#include <random>

#include <time.h>

#include "state.h"

using namespace emulator;

namespace emulator {

// A point is an event as it was recorded once, or the end of a graph's launch.
struct Point {
  bool done = false;
  uint64_t time = 0;
  Stream *on;
};

// A node of a graph comes after others, of smaller numbers. Its lane is the stream that it was captured on.
struct Node {
  std::function<int()> work;
  std::vector<int> after;
  int lane;
};

// A replay is a launch of a graph under way.
struct Replay {
  std::shared_ptr<const std::vector<Node>> nodes;
  std::vector<std::vector<int>> next;
  std::vector<int> missing;  // how many nodes each still comes after
  std::vector<int> ready;
  size_t left;
};

struct Operation {
  std::vector<std::shared_ptr<Point>> after;  // points that it waits for
  std::function<int()> work;
  std::shared_ptr<Replay> replay;
  std::shared_ptr<Point> end;
};

// A capture is a graph that is being made.
struct Capture {
  std::vector<Node> nodes;
  Stream *origin;
  int mode, lanes = 0;
  const void *thread;
  bool invalid = false;
};

struct Stream {
  std::deque<Operation> queue;
  bool destroyed = false;
  std::shared_ptr<Capture> capture;
  std::vector<int> tail;  // what the next captured node comes after
  int lane = 0;
};

}  // namespace emulator

namespace {

struct Event {
  bool timed;
  std::shared_ptr<Point> point;
  std::weak_ptr<Capture> capture;
  bool captured = false;
  std::vector<int> tail;
};
struct Graph {
  std::vector<Node> nodes;
};
struct Exec {
  std::shared_ptr<const std::vector<Node>> nodes;
  std::shared_ptr<Point> last;  // its launches follow each other
};

enum class When { Now, Late, Odd } when = When::Odd;
std::mt19937 chance(1);
Stream null_stream;
std::vector<Stream *> streams = {&null_stream};  // as they were created
std::vector<Stream *> turn;                        // in the order in which they come to their turn
int turns;                                         // until that order changes
const size_t deep = 1024;                          // operations that a stream holds before enqueueing waits, as on a GPU

bool valid(const Stream *s) { return std::find(streams.begin(), streams.end(), s) != streams.end() && !s->destroyed; }

bool one_in(unsigned n) { return chance() % n == 0; }

const void *this_thread() {
  static thread_local char here;
  return &here;
}

uint64_t now() {
  static uint64_t last;
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  uint64_t n = (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
  return last = std::max(n, last + 2000);  // as events on a GPU, two are never at one time
}

// pick takes a node that is ready: one lane runs ahead, now and then another.
int pick(Replay &r) {
  static int ahead;
  if (when == When::Now) {
    auto first = std::min_element(r.ready.begin(), r.ready.end());
    int n = *first;
    r.ready.erase(first);
    return n;
  }
  if (one_in(16)) ahead = (int)(chance() % 64);
  auto key = [&](int n) { return ((*r.nodes)[(size_t)n].lane * 37 + ahead) % 64; };
  auto first = std::min_element(r.ready.begin(), r.ready.end(), [&](int a, int b) { return key(a) < key(b); });
  int n = *first;
  r.ready.erase(first);
  return n;
}

void work(const std::function<int()> &f) {
  if (!(settings.sticky && pending)) f();  // after a fault nothing runs any more
}

void remove(Stream *s) {
  streams.erase(std::find(streams.begin(), streams.end(), s));
  turn.clear();
  delete s;
}

// step does a piece of the first operation of a stream, or tells the point that it waits for; moved says whether it did something.
std::shared_ptr<Point> step(Stream *s, bool *moved) {
  *moved = false;
  if (s->queue.empty()) return nullptr;
  Operation &o = s->queue.front();
  for (auto &p : o.after)
    if (!p->done) return p;
  *moved = true;
  if (o.work) work(o.work);
  if (Replay *r = o.replay.get()) {
    if (r->left) {
      int n = pick(*r);
      work((*r->nodes)[(size_t)n].work);
      for (int k : r->next[(size_t)n])
        if (--r->missing[(size_t)k] == 0) r->ready.push_back(k);
      r->left--;
    }
    if (r->left) return nullptr;
  }
  if (o.end) o.end->done = true, o.end->time = now();
  s->queue.pop_front();
  if (s->destroyed && s->queue.empty()) remove(s);
  return nullptr;
}

// forward does what a stream needs for its next step, and that step.
void forward(Stream *s) {
  bool moved;
  while (auto p = step(s, &moved)) s = p->on;
}

// anywhere does a step of the stream whose turn it is, if there is any work.
void anywhere() {
  if (turn.size() != streams.size() || turns-- <= 0) {
    turn = streams;
    std::shuffle(turn.begin(), turn.end(), chance);
    turns = one_in(4) ? 1000 : (int)(chance() % 16);
  }
  bool moved = false;
  for (size_t i = 0; i < turn.size() && !moved; i++) step(turn[i], &moved);
}

// until works until a stream has no more than so many operations, or a point was reached.
void until(Stream *s, size_t most, const Point *p) {
  while (p ? !p->done : s->queue.size() > most) {
    if (when == When::Odd) anywhere();
    else forward(s);
  }
}

int push(Stream *s, Operation o) {
  s->queue.push_back(std::move(o));
  if (when == When::Now) until(s, 0, nullptr);
  if (s->queue.size() > deep) until(s, deep / 2, nullptr);
  if (when == When::Odd && one_in(8))
    for (unsigned n = chance() % 8; n; n--) anywhere();
  return OK;
}

void merge(std::vector<int> &to, const std::vector<int> &from) {
  to.insert(to.end(), from.begin(), from.end());
  std::sort(to.begin(), to.end());
  to.erase(std::unique(to.begin(), to.end()), to.end());
}

void leave(const std::shared_ptr<Capture> &c) {
  for (Stream *s : streams)
    if (s->capture == c) s->capture = nullptr, s->tail.clear();
}

// joined tells whether the nodes that a capture ends with come after all others.
bool joined(const std::vector<Node> &nodes, const std::vector<int> &tail) {
  std::vector<bool> seen(nodes.size());
  for (int n : tail) seen[(size_t)n] = true;
  for (size_t n = nodes.size(); n-- > 0;) {
    if (!seen[n]) return false;
    for (int k : nodes[n].after) seen[(size_t)k] = true;
  }
  return true;
}

std::shared_ptr<Replay> replay(const Exec *x) {
  auto r = std::make_shared<Replay>();
  r->nodes = x->nodes;
  r->left = x->nodes->size();
  r->next.resize(r->left);
  for (size_t i = 0; i < r->left; i++) {
    const std::vector<int> &after = (*x->nodes)[i].after;
    for (int k : after) r->next[(size_t)k].push_back((int)i);
    r->missing.push_back((int)after.size());
    if (after.empty()) r->ready.push_back((int)i);
  }
  return r;
}

}  // namespace

namespace emulator {

void set_streams(const std::string &value) {
  finish_all();
  when = value == "now" ? When::Now : value == "late" ? When::Late : When::Odd;
  chance.seed((unsigned)atoi(value.c_str()));
  turns = 0;
}

int enqueue(Stream *s, std::function<int()> work) {
  if (!s) s = &null_stream;
  if (!valid(s)) return INVALID_HANDLE;
  if (!s->capture) return push(s, Operation{{}, std::move(work), nullptr, nullptr});
  if (s->capture->invalid) return CAPTURE_INVALIDATED;
  s->capture->nodes.push_back(Node{std::move(work), s->tail, s->lane});
  s->tail = {(int)s->capture->nodes.size() - 1};
  return OK;
}

void finish(Stream *s) {
  if (!s) s = &null_stream;
  if (valid(s) && !s->capture) until(s, 0, nullptr);
}

void finish_all() {
  for (bool any = true; any;) {
    any = false;
    for (size_t i = streams.size(); i-- > 0 && !any;)
      if (!streams[i]->queue.empty()) any = true, when == When::Odd ? anywhere() : forward(streams[i]);
  }
}

int forbidden() {
  int code = OK;
  for (Stream *s : streams) {
    Capture *c = s->capture.get();
    if (c && (c->mode == 0 || (c->mode == 1 && c->thread == this_thread()))) c->invalid = true, code = CAPTURE_UNSUPPORTED;
  }
  return code;
}

}  // namespace emulator

API cuStreamCreateWithPriority(Stream **out, unsigned, int) {
  ENTER_CONTEXT
  streams.push_back(*out = new Stream);
  return OK;
}

// Work that the stream still has is done all the same.
API cuStreamDestroy_v2(Stream *s) {
  ENTER_CONTEXT
  if (!valid(s) || s == &null_stream) return INVALID_HANDLE;
  if (s->capture) s->capture->invalid = true, s->capture = nullptr;
  s->destroyed = true;
  if (s->queue.empty()) remove(s);
  return OK;
}

API cuStreamSynchronize(Stream *s) {
  ENTER_CONTEXT
  if (!s) s = &null_stream;
  if (!valid(s)) return INVALID_HANDLE;
  if (s->capture) {
    s->capture->invalid = true;
    return CAPTURE_UNSUPPORTED;
  }
  finish(s);
  return reported();
}

API cuStreamWaitEvent(Stream *s, Event *e, unsigned) {
  ENTER_CONTEXT
  if (!s) s = &null_stream;
  if (!valid(s)) return INVALID_HANDLE;
  if (!e->captured) {
    if (!e->point) return OK;  // never recorded
    if (!s->capture) return push(s, Operation{{e->point}, nullptr, nullptr, nullptr});
    s->capture->invalid = true;
    return CAPTURE_ISOLATION;
  }
  std::shared_ptr<Capture> c = e->capture.lock();
  if (!c) return CAPTURED_EVENT;  // a point of a capture that has ended
  if (s->capture && s->capture != c) {
    s->capture->invalid = c->invalid = true;
    return CAPTURE_MERGE;
  }
  if (!s->capture) s->capture = c, s->lane = ++c->lanes, s->tail.clear();  // the stream joins the capture
  merge(s->tail, e->tail);
  return OK;
}

API cuStreamBeginCapture_v2(Stream *s, int mode) {
  ENTER_CONTEXT
  if (!s || !valid(s) || s->capture) return CAPTURE_UNSUPPORTED;
  s->capture = std::make_shared<Capture>();
  s->capture->origin = s;
  s->capture->mode = mode;
  s->capture->thread = this_thread();
  s->lane = 0;
  s->tail.clear();
  return OK;
}

API cuStreamEndCapture(Stream *s, Graph **out) {
  ENTER_CONTEXT
  *out = nullptr;
  if (!valid(s) || !s->capture || s->capture->origin != s) return CAPTURE_UNMATCHED;
  std::shared_ptr<Capture> c = s->capture;
  if (c->mode < 2 && c->thread != this_thread()) return CAPTURE_WRONG_THREAD;
  bool whole = joined(c->nodes, s->tail);
  leave(c);
  if (c->invalid) return CAPTURE_INVALIDATED;
  if (!whole) return CAPTURE_UNJOINED;
  *out = new Graph{std::move(c->nodes)};
  return OK;
}

API cuEventCreate(Event **out, unsigned flags) {
  ENTER_CONTEXT
  *out = new Event;
  (*out)->timed = !(flags & 2);
  return OK;
}

API cuEventDestroy_v2(Event *e) {
  ENTER_CONTEXT
  delete e;
  return OK;
}

API cuEventRecord(Event *e, Stream *s) {
  ENTER_CONTEXT
  if (!s) s = &null_stream;
  if (!valid(s)) return INVALID_HANDLE;
  e->captured = s->capture != nullptr;
  e->capture = s->capture;
  e->tail = s->tail;
  e->point = nullptr;
  if (e->captured) return s->capture->invalid ? CAPTURE_INVALIDATED : OK;
  e->point = std::make_shared<Point>();
  e->point->on = s;
  return push(s, Operation{{}, nullptr, nullptr, e->point});
}

API cuEventSynchronize(Event *e) {
  ENTER_CONTEXT
  if (e->captured) {
    if (auto c = e->capture.lock()) c->invalid = true;
    return CAPTURED_EVENT;
  }
  if (e->point) until(e->point->on, 0, e->point.get());
  return reported();
}

API cuEventElapsedTime(float *out, Event *a, Event *b) {
  ENTER_CONTEXT
  if (!a->timed || !b->timed || !a->point || !b->point) return INVALID_HANDLE;
  if (!a->point->done || !b->point->done) return NOT_READY;
  *out = (float)((double)((int64_t)b->point->time - (int64_t)a->point->time) * 1e-6);
  return OK;
}

API cuGraphInstantiateWithFlags(Exec **out, Graph *g, uint64_t) {
  ENTER_CONTEXT
  *out = new Exec{std::make_shared<const std::vector<Node>>(g->nodes), nullptr};
  return OK;
}

// Launches of one graph follow each other, on whatever streams they are.
API cuGraphLaunch(Exec *x, Stream *s) {
  ENTER_CONTEXT
  if (!s) s = &null_stream;
  if (!valid(s)) return INVALID_HANDLE;
  if (s->capture) return CAPTURE_UNSUPPORTED;  // a graph in a graph, which nobody records here
  Operation o{{}, nullptr, replay(x), std::make_shared<Point>()};
  o.end->on = s;
  if (x->last && !x->last->done) o.after.push_back(x->last);
  x->last = o.end;
  return push(s, std::move(o));
}

API cuGraphGetNodes(Graph *g, void **, size_t *n) {
  *n = g->nodes.size();
  return OK;
}

API cuGraphExecDestroy(Exec *x) {
  ENTER_CONTEXT
  delete x;
  return OK;
}

API cuGraphDestroy(Graph *g) {
  ENTER_CONTEXT
  delete g;
  return OK;
}
