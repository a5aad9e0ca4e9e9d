// The emulator's libcuda: the entry points of the CUDA driver that device/cuda uses, on the processor. Streams do their work at once;
// while a stream is captured the work is kept in a graph and done at each launch of it. Names, arguments and codes are CUDA's.
#include <dlfcn.h>
#include <elf.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "fiber.h"

#define API extern "C" __attribute__((visibility("default"))) int

namespace {

enum {
  OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, INVALID_IMAGE = 200, INVALID_CONTEXT = 201, INVALID_HANDLE = 400,
  NOT_FOUND = 500, NOT_READY = 600, ILLEGAL_ADDRESS = 700, LAUNCH_OUT_OF_RESOURCES = 701, MISALIGNED = 716, LAUNCH_FAILED = 719,
  CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901, CAPTURE_UNMATCHED = 903,
};

typedef uint64_t Pointer;

struct Graph {
  std::vector<std::function<int()>> work;
  bool invalid = false;
};
struct Stream {
  Graph *capture = nullptr;
  bool origin = false;
  int mode = 0;
};
struct Event {
  uint64_t time = 0;
  Graph *capture = nullptr;
};
struct Module {
  void *handle = nullptr;
  std::map<std::string, struct Function *> functions;
};
struct Function {
  std::string name;
  Module *module;
  void (*entry)(void **);
  std::vector<unsigned> sizes;
  Thread **self;
  char *from, *to;
  int bounds, most_dynamic = 48 << 10;
};
// An allocation stands between two pages that nobody may touch, its end at the second one.
struct Allocation {
  char *map;
  size_t mapped, bytes;
  bool host;
};
struct Physical {
  int file;
  size_t bytes;
};

std::recursive_mutex lock;
std::map<Pointer, Allocation> allocations;
std::map<Pointer, size_t> reserved, mapped;
std::set<Stream *> streams;
Stream null_stream;
uint64_t used, last_time;
bool initialized;
int contexts;
thread_local bool current;
int pending;             // the code of a fault that was not reported yet
std::string described;  // of the last fault

struct Settings {
  int capability = 90, processors = 8, sticky = 0, devices = 1;
  uint64_t memory = 85045149696u;
  Order order = Order::Forward;
  unsigned seed = 1;
} settings;

const size_t page = 65536;
const uint64_t context_bytes = 512 << 20;

uint64_t now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  uint64_t n = (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
  last_time = n > last_time + 2000 ? n : last_time + 2000;  // as events on a GPU, two are never at one time
  return last_time;
}

// set reads settings as "capability=80,order=reverse".
void set(const char *text) {
  std::string s = text ? text : "";
  for (size_t at = 0; at < s.size();) {
    size_t end = s.find(',', at);
    if (end == std::string::npos) end = s.size();
    std::string one = s.substr(at, end - at), key = one.substr(0, one.find('=')), value = one.substr(one.find('=') + 1);
    at = end + 1;
    if (key == "capability") settings.capability = atoi(value.c_str());
    else if (key == "processors") settings.processors = atoi(value.c_str());
    else if (key == "sticky") settings.sticky = atoi(value.c_str());
    else if (key == "devices") settings.devices = atoi(value.c_str());
    else if (key == "memory") settings.memory = strtoull(value.c_str(), nullptr, 10);
    else if (key == "order" && value == "forward") settings.order = Order::Forward;
    else if (key == "order" && value == "reverse") settings.order = Order::Reverse;
    else if (key == "order") settings.order = Order::Shuffled, settings.seed = (unsigned)atoi(value.c_str());
    else fprintf(stderr, "emulator: the setting %s is unknown\n", one.c_str());
  }
}

// fault keeps an error for the next call that waits for the device.
int fault(int code, const std::string &why) {
  fprintf(stderr, "emulator: %s\n", why.c_str());
  if (!pending) pending = code, described = why;
  return OK;
}

// reported is the fault that waits to be told, once unless errors are sticky as those of a GPU are.
int reported() {
  int code = pending;
  if (!settings.sticky) pending = OK;
  return code;
}

#define ENTER                                                   \
  std::lock_guard<std::recursive_mutex> guard(lock);            \
  if (!initialized) return NOT_INITIALIZED;
#define ENTER_CONTEXT                                           \
  ENTER                                                         \
  if (!current || contexts == 0) return INVALID_CONTEXT;        \
  if (settings.sticky && pending) return pending;

// place makes a block between guard pages.
Allocation place(size_t bytes, bool host) {
  size_t body = (bytes + page - 1) / page * page;
  char *p = (char *)mmap(nullptr, body + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) return Allocation{};
  mprotect(p + page, body, PROT_READ | PROT_WRITE);
  return Allocation{p, body + 2 * page, bytes, host};
}

char *start(const Allocation &a) { return a.map + a.mapped - page - (a.bytes + 255) / 256 * 256; }

const unsigned char canary = 0xc7;

// damaged says whether something was written between the end of an allocation and the guard page behind it.
bool damaged(const Allocation &a) {
  const unsigned char *p = (const unsigned char *)start(a);
  for (size_t i = a.bytes; i < (a.bytes + 255) / 256 * 256; i++)
    if (p[i] != canary) return true;
  return false;
}

int allocate(Pointer *out, size_t bytes, bool host) {
  if (bytes == 0) return INVALID_VALUE;
  if (!host && (bytes > settings.memory || used + bytes + context_bytes > settings.memory)) return OUT_OF_MEMORY;
  Allocation a = place(bytes, host);
  if (!a.map) return OUT_OF_MEMORY;
  char *p = start(a);
  // What a GPU hands out holds the traces of others.
  if (bytes <= 64 << 20) memset(p, 0xa5, bytes);
  memset(p + bytes, canary, (bytes + 255) / 256 * 256 - bytes);
  *out = (Pointer)p;
  allocations[*out] = a;
  if (!host) used += (bytes + 511) / 512 * 512;
  return OK;
}

int release(Pointer p, bool host) {
  auto it = allocations.find(p);
  if (it == allocations.end() || it->second.host != host) return INVALID_VALUE;
  Allocation a = it->second;
  if (damaged(a)) fault(ILLEGAL_ADDRESS, "bytes after the end of an allocation of " + std::to_string(a.bytes) + " bytes were written");
  munmap(a.map, a.mapped);
  allocations.erase(it);
  if (!host) used -= (a.bytes + 511) / 512 * 512;
  return OK;
}

// inside says whether n bytes at p are in one allocation, or in memory mapped without a gap.
bool inside(Pointer p, size_t n) {
  auto it = allocations.upper_bound(p);
  if (it != allocations.begin()) {
    --it;
    if (p + n <= it->first + it->second.bytes) return true;
  }
  auto v = mapped.upper_bound(p);
  if (v == mapped.begin()) return false;
  --v;
  Pointer end = v->first + v->second;
  if (p >= end) return false;
  while (p + n > end) {
    ++v;
    if (v == mapped.end() || v->first != end) return false;
    end += v->second;
  }
  return true;
}

bool valid(Stream *s) { return s == &null_stream || streams.count(s); }

// enqueue does the work now, or keeps it in the graph that the stream is captured into.
int enqueue(Stream *s, std::function<int()> work) {
  if (!s) s = &null_stream;
  if (!valid(s)) return INVALID_HANDLE;
  if (s->capture) {
    if (s->capture->invalid) return CAPTURE_INVALIDATED;
    s->capture->work.push_back(std::move(work));
    return OK;
  }
  return work();
}

// forbidden spoils captures in the modes that watch for calls which can not be captured.
int forbidden() {
  int code = OK;
  for (Stream *s : streams)
    if (s->capture && s->mode < 2) s->capture->invalid = true, code = CAPTURE_UNSUPPORTED;
  return code;
}

struct Work {
  Function *f;
  Vec3 grid, block;
  size_t dynamic;
  std::vector<std::vector<char>> args;
};

int run(const Work &w) {
  std::vector<void *> args;
  for (const auto &a : w.args) args.push_back(const_cast<char *>(a.data()));
  args.push_back(nullptr);
  std::string why;
  int code = run_grid(Launch{w.f->name, w.f->entry, args.data(), w.f->self, w.f->from, w.f->to, w.grid, w.block, w.dynamic},
                      settings.order, settings.seed, &why);
  return code ? fault(code, why) : OK;
}

// image_bytes is the length of a shared library in memory: its table of sections stands last.
size_t image_bytes(const void *image) {
  const Elf64_Ehdr *h = (const Elf64_Ehdr *)image;
  if (memcmp(h->e_ident, ELFMAG, SELFMAG)) return 0;
  return h->e_shoff + (size_t)h->e_shnum * h->e_shentsize;
}

}  // namespace

// emulateSet changes settings while the program runs: those of set.
API emulateSet(const char *text) {
  std::lock_guard<std::recursive_mutex> guard(lock);
  set(text);
  return OK;
}

API cuInit(unsigned) {
  std::lock_guard<std::recursive_mutex> guard(lock);
  if (!initialized) set(getenv("BYES_EMULATE"));
  initialized = true;
  catch_faults();
  return settings.devices ? OK : 100;
}

API cuDriverGetVersion(int *v) {
  *v = 13000;
  return OK;
}

API cuDeviceGetCount(int *n) {
  ENTER
  *n = settings.devices;
  return OK;
}

API cuDeviceGet(int *d, int i) {
  ENTER
  if (i < 0 || i >= settings.devices) return 101;
  *d = i;
  return OK;
}

API cuDeviceGetName(char *out, int n, int) {
  snprintf(out, (size_t)n, "Emulated GPU");
  return OK;
}

API cuDeviceTotalMem_v2(size_t *n, int) {
  *n = settings.memory;
  return OK;
}

API cuDeviceGetUuid(char *out, int d) {
  memset(out, d, 16);
  return OK;
}

API cuDeviceGetAttribute(int *v, int a, int) {
  ENTER
  static const std::map<int, int> fixed = {
      {1, 1024}, {2, 1024}, {3, 1024}, {4, 64}, {5, 2147483647}, {6, 65535}, {7, 65535}, {8, 49152}, {9, 65536}, {10, 32}, {12, 65536}, {13, 1980000},
      {14, 512}, {18, 0}, {19, 1}, {31, 1}, {36, 2619000}, {37, 5120}, {38, 52428800}, {39, 2048}, {40, 3}, {41, 1}, {81, 233472}, {82, 65536},
      {83, 1}, {95, 0}, {96, 1}, {97, 232448}, {102, 1}, {106, 32}, {115, 1}};
  auto it = fixed.find(a);
  *v = it == fixed.end() ? 0 : it->second;
  if (a == 16) *v = settings.processors;
  if (a == 75) *v = settings.capability / 10;
  if (a == 76) *v = settings.capability % 10;
  if (settings.capability < 80 && a == 97) *v = 65536;
  if (settings.capability < 80 && a == 81) *v = 65536;
  return OK;
}

API cuDevicePrimaryCtxRetain(void **ctx, int d) {
  ENTER
  contexts++;
  *ctx = (void *)(uintptr_t)(0x1000 + d);
  return OK;
}

API cuDevicePrimaryCtxRelease_v2(int) {
  ENTER
  if (contexts == 0) return INVALID_CONTEXT;
  if (--contexts == 0) pending = OK;
  return OK;
}

API cuDevicePrimaryCtxReset_v2(int) {
  ENTER
  pending = OK;
  return OK;
}

API cuCtxSetCurrent(void *ctx) {
  ENTER
  current = ctx != nullptr;
  return OK;
}

API cuCtxGetCurrent(void **ctx) {
  ENTER
  *ctx = current ? (void *)0x1000 : nullptr;
  return OK;
}

API cuCtxSynchronize() {
  ENTER_CONTEXT
  if (int code = forbidden()) return code;
  return reported();
}

static const std::map<int, std::pair<const char *, const char *>> errors = {
    {OK, {"CUDA_SUCCESS", "no error"}},
    {INVALID_VALUE, {"CUDA_ERROR_INVALID_VALUE", "invalid argument"}},
    {OUT_OF_MEMORY, {"CUDA_ERROR_OUT_OF_MEMORY", "out of memory"}},
    {NOT_INITIALIZED, {"CUDA_ERROR_NOT_INITIALIZED", "initialization error"}},
    {100, {"CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"}},
    {101, {"CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"}},
    {INVALID_IMAGE, {"CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"}},
    {INVALID_CONTEXT, {"CUDA_ERROR_INVALID_CONTEXT", "invalid device context"}},
    {INVALID_HANDLE, {"CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"}},
    {NOT_FOUND, {"CUDA_ERROR_NOT_FOUND", "named symbol not found"}},
    {NOT_READY, {"CUDA_ERROR_NOT_READY", "device not ready"}},
    {ILLEGAL_ADDRESS, {"CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"}},
    {LAUNCH_OUT_OF_RESOURCES, {"CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"}},
    {MISALIGNED, {"CUDA_ERROR_MISALIGNED_ADDRESS", "misaligned address"}},
    {LAUNCH_FAILED, {"CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"}},
    {CAPTURE_UNSUPPORTED, {"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"}},
    {CAPTURE_INVALIDATED, {"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"}},
    {CAPTURE_UNMATCHED, {"CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", "capture was not initiated in this stream"}},
};

API cuGetErrorName(int code, const char **out) {
  auto it = errors.find(code);
  *out = it == errors.end() ? nullptr : it->second.first;
  return it == errors.end() ? INVALID_VALUE : OK;
}

// The string of a kernel's fault also says what the emulator knows of it.
API cuGetErrorString(int code, const char **out) {
  static std::map<std::string, bool> kept;
  auto it = errors.find(code);
  if (it == errors.end()) {
    *out = nullptr;
    return INVALID_VALUE;
  }
  *out = it->second.second;
  std::lock_guard<std::recursive_mutex> guard(lock);
  if (!described.empty() && (code == ILLEGAL_ADDRESS || code == LAUNCH_FAILED || code == MISALIGNED))
    *out = kept.emplace(std::string(it->second.second) + ": " + described, true).first->first.c_str();
  return OK;
}

API cuMemGetInfo_v2(size_t *free, size_t *total) {
  ENTER_CONTEXT
  *total = settings.memory;
  *free = settings.memory > used + context_bytes ? settings.memory - used - context_bytes : 0;
  return OK;
}

API cuMemAlloc_v2(Pointer *out, size_t bytes) {
  ENTER_CONTEXT
  if (int code = forbidden()) return code;
  return allocate(out, bytes, false);
}

API cuMemFree_v2(Pointer p) {
  ENTER_CONTEXT
  if (int code = forbidden()) return code;
  return p ? release(p, false) : OK;
}

API cuMemHostAlloc(void **out, size_t bytes, unsigned) {
  ENTER_CONTEXT
  return allocate((Pointer *)out, bytes, true);
}

API cuMemFreeHost(void *p) {
  ENTER_CONTEXT
  return release((Pointer)p, true);
}

API cuMemHostGetDevicePointer_v2(Pointer *out, void *p, unsigned) {
  *out = (Pointer)p;
  return OK;
}

API cuMemHostRegister_v2(void *, size_t, unsigned) { return OK; }
API cuMemHostUnregister(void *) { return OK; }

// copy checks the ranges that lie on the device; a range of the host is anybody's.
static int copy(void *dst, const void *src, size_t n, bool check_dst, bool check_src, Stream *s) {
  ENTER_CONTEXT
  if (n == 0) return OK;
  if ((check_dst && !inside((Pointer)dst, n)) || (check_src && !inside((Pointer)src, n))) return INVALID_VALUE;
  return enqueue(s, [=] {
    memmove(dst, src, n);
    return OK;
  });
}

API cuMemcpyHtoDAsync_v2(Pointer dst, const void *src, size_t n, Stream *s) { return copy((void *)dst, src, n, true, false, s); }
API cuMemcpyDtoHAsync_v2(void *dst, Pointer src, size_t n, Stream *s) { return copy(dst, (void *)src, n, false, true, s); }
API cuMemcpyDtoDAsync_v2(Pointer dst, Pointer src, size_t n, Stream *s) { return copy((void *)dst, (void *)src, n, true, true, s); }
API cuMemcpyAsync(Pointer dst, Pointer src, size_t n, Stream *s) { return copy((void *)dst, (void *)src, n, false, false, s); }
API cuMemcpyHtoD_v2(Pointer dst, const void *src, size_t n) { return copy((void *)dst, src, n, true, false, nullptr); }
API cuMemcpyDtoH_v2(void *dst, Pointer src, size_t n) { return copy(dst, (void *)src, n, false, true, nullptr); }

API cuMemsetD8Async(Pointer dst, unsigned char v, size_t n, Stream *s) {
  ENTER_CONTEXT
  if (n == 0) return OK;
  if (!inside(dst, n)) return INVALID_VALUE;
  return enqueue(s, [=] {
    memset((void *)dst, v, n);
    return OK;
  });
}

API cuMemsetD32Async(Pointer dst, unsigned v, size_t n, Stream *s) {
  ENTER_CONTEXT
  if (n == 0) return OK;
  if (dst % 4 || !inside(dst, n * 4)) return INVALID_VALUE;
  return enqueue(s, [=] {
    for (size_t i = 0; i < n; i++) ((unsigned *)dst)[i] = v;
    return OK;
  });
}

static const size_t granularity = 2 << 20;

API cuMemGetAllocationGranularity(size_t *out, const void *, int) {
  *out = granularity;
  return OK;
}

API cuMemAddressReserve(Pointer *out, size_t bytes, size_t, Pointer, uint64_t) {
  ENTER_CONTEXT
  if (bytes == 0 || bytes % granularity) return INVALID_VALUE;
  char *p = (char *)mmap(nullptr, bytes + granularity, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) return OUT_OF_MEMORY;
  Pointer at = ((Pointer)p + granularity - 1) / granularity * granularity;
  if (at > (Pointer)p) munmap(p, at - (Pointer)p);
  if (size_t rest = granularity - (at - (Pointer)p)) munmap((char *)at + bytes, rest);
  reserved[at] = bytes;
  *out = at;
  return OK;
}

API cuMemAddressFree(Pointer p, size_t bytes) {
  ENTER_CONTEXT
  auto it = reserved.find(p);
  if (it == reserved.end() || it->second != bytes) return INVALID_VALUE;
  auto v = mapped.lower_bound(p);
  if (v != mapped.end() && v->first < p + bytes) return INVALID_VALUE;
  munmap((void *)p, bytes);
  reserved.erase(it);
  return OK;
}

API cuMemCreate(Physical **out, size_t bytes, const void *, uint64_t) {
  ENTER_CONTEXT
  if (bytes == 0 || bytes % granularity) return INVALID_VALUE;
  if (bytes > settings.memory || used + bytes + context_bytes > settings.memory) return OUT_OF_MEMORY;
  int f = memfd_create("device", MFD_CLOEXEC);
  if (f < 0 || ftruncate(f, (off_t)bytes) != 0) return OUT_OF_MEMORY;
  used += bytes;
  *out = new Physical{f, bytes};
  return OK;
}

API cuMemRelease(Physical *h) {
  ENTER_CONTEXT
  close(h->file);
  used -= h->bytes;
  delete h;
  return OK;
}

API cuMemMap(Pointer p, size_t bytes, size_t offset, Physical *h, uint64_t) {
  ENTER_CONTEXT
  auto it = reserved.upper_bound(p);
  if (it == reserved.begin()) return INVALID_VALUE;
  --it;
  if (p + bytes > it->first + it->second || bytes != h->bytes || offset || p % granularity || mapped.count(p)) return INVALID_VALUE;
  if (mmap((void *)p, bytes, PROT_NONE, MAP_SHARED | MAP_FIXED, h->file, 0) == MAP_FAILED) return OUT_OF_MEMORY;
  mapped[p] = bytes;
  return OK;
}

API cuMemSetAccess(Pointer p, size_t bytes, const void *, size_t) {
  ENTER_CONTEXT
  if (!inside(p, bytes)) return INVALID_VALUE;
  return mprotect((void *)p, bytes, PROT_READ | PROT_WRITE) ? INVALID_VALUE : OK;
}

API cuMemUnmap(Pointer p, size_t bytes) {
  ENTER_CONTEXT
  if (!inside(p, bytes) || !mapped.count(p)) return INVALID_VALUE;
  mmap((void *)p, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  mapped.erase(mapped.lower_bound(p), mapped.lower_bound(p + bytes));
  return OK;
}

API cuStreamCreateWithPriority(Stream **out, unsigned, int) {
  ENTER_CONTEXT
  *out = new Stream;
  streams.insert(*out);
  return OK;
}

API cuStreamCreate(Stream **out, unsigned flags) { return cuStreamCreateWithPriority(out, flags, 0); }

API cuStreamDestroy_v2(Stream *s) {
  ENTER_CONTEXT
  if (!streams.erase(s)) return INVALID_HANDLE;
  delete s;
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
  return reported();
}

API cuStreamQuery(Stream *s) { return cuStreamSynchronize(s); }

API cuStreamWaitEvent(Stream *s, Event *e, unsigned) {
  ENTER_CONTEXT
  if (!s) s = &null_stream;
  if (!valid(s)) return INVALID_HANDLE;
  if (e->capture && !s->capture) s->capture = e->capture, s->origin = false;  // the stream joins the capture
  return OK;
}

API cuStreamBeginCapture_v2(Stream *s, int mode) {
  ENTER_CONTEXT
  if (!s || !valid(s)) return CAPTURE_UNSUPPORTED;
  if (s->capture) return CAPTURE_UNSUPPORTED;
  s->capture = new Graph;
  s->origin = true;
  s->mode = mode;
  return OK;
}

API cuStreamEndCapture(Stream *s, Graph **out) {
  ENTER_CONTEXT
  *out = nullptr;
  if (!valid(s) || !s->capture || !s->origin) return CAPTURE_UNMATCHED;
  Graph *g = s->capture;
  for (Stream *t : streams)
    if (t->capture == g) t->capture = nullptr, t->origin = false;
  if (g->invalid) {
    delete g;
    return CAPTURE_INVALIDATED;
  }
  *out = g;
  return OK;
}

API cuStreamIsCapturing(Stream *s, int *out) {
  ENTER_CONTEXT
  if (!s) s = &null_stream;
  if (!valid(s)) return INVALID_HANDLE;
  *out = !s->capture ? 0 : s->capture->invalid ? 2 : 1;
  return OK;
}

API cuThreadExchangeStreamCaptureMode(int *) { return OK; }

API cuEventCreate(Event **out, unsigned) {
  ENTER_CONTEXT
  *out = new Event;
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
  e->capture = s->capture;
  if (!s->capture) e->time = now();
  return OK;
}

API cuEventQuery(Event *e) {
  ENTER_CONTEXT
  return e->capture ? CAPTURE_UNSUPPORTED : reported();
}

API cuEventSynchronize(Event *e) { return cuEventQuery(e); }

API cuEventElapsedTime(float *out, Event *a, Event *b) {
  ENTER_CONTEXT
  if (!a->time || !b->time) return INVALID_HANDLE;
  *out = (float)((double)((int64_t)b->time - (int64_t)a->time) * 1e-6);
  return OK;
}

API cuEventElapsedTime_v2(float *out, Event *a, Event *b) { return cuEventElapsedTime(out, a, b); }

API cuGraphInstantiateWithFlags(Graph **out, Graph *g, uint64_t) {
  ENTER_CONTEXT
  *out = new Graph(*g);
  return OK;
}

API cuGraphLaunch(Graph *g, Stream *s) {
  ENTER_CONTEXT
  return enqueue(s, [g] {
    for (auto &w : g->work)
      if (int code = w()) return code;
    return (int)OK;
  });
}

API cuGraphUpload(Graph *, Stream *) { return OK; }

API cuGraphGetNodes(Graph *g, void **, size_t *n) {
  *n = g->work.size();
  return OK;
}

API cuGraphExecDestroy(Graph *g) {
  ENTER_CONTEXT
  delete g;
  return OK;
}

API cuGraphDestroy(Graph *g) { return cuGraphExecDestroy(g); }

API cuModuleLoadData(Module **out, const void *image) {
  ENTER_CONTEXT
  if (!memcmp(image, "EMULATED NOTHING", 16)) {  // of a compiler that was told to compile nothing
    *out = new Module;
    return OK;
  }
  size_t n = image_bytes(image);
  if (!n) return INVALID_IMAGE;
  char name[] = "/tmp/emulated.XXXXXX";
  int f = mkstemp(name);
  if (f < 0) return OUT_OF_MEMORY;
  bool ok = write(f, image, n) == (ssize_t)n;
  close(f);
  void *h = ok ? dlopen(name, RTLD_NOW | RTLD_LOCAL) : nullptr;
  if (!h) fprintf(stderr, "emulator: %s\n", ok ? dlerror() : "could not write the module");
  unlink(name);
  if (!h) return INVALID_IMAGE;
  void *host = dlsym(h, "emulate_host");
  if (!host) {
    dlclose(h);
    return INVALID_IMAGE;
  }
  *(Host *)host = host_services();
  *out = new Module;
  (*out)->handle = h;
  return OK;
}

API cuModuleLoadDataEx(Module **out, const void *image, unsigned, void *, void *) { return cuModuleLoadData(out, image); }

API cuModuleUnload(Module *m) {
  ENTER_CONTEXT
  for (auto &f : m->functions) delete f.second;
  if (m->handle) dlclose(m->handle);
  delete m;
  return OK;
}

API cuModuleGetFunction(Function **out, Module *m, const char *name) {
  ENTER_CONTEXT
  auto it = m->functions.find(name);
  if (it != m->functions.end()) {
    *out = it->second;
    return OK;
  }
  if (!m->handle) {
    *out = m->functions[name] = new Function{name, m, nullptr, {}, nullptr, nullptr, nullptr, 1024};
    return OK;
  }
  auto find = [&](const std::string &s) { return dlsym(m->handle, s.c_str()); };
  void *entry = find(std::string("emulate_entry_") + name);
  if (!entry) return NOT_FOUND;
  Function *f = new Function;
  f->name = name;
  f->module = m;
  f->entry = (void (*)(void **))entry;
  unsigned sizes[256];
  int n = ((int (*)(unsigned *))find(std::string("emulate_sizes_") + name))(sizes);
  f->sizes.assign(sizes, sizes + n);
  f->bounds = ((int (*)())find(std::string("emulate_bounds_") + name))();
  f->self = (Thread **)find("emulate_self");
  ((void (*)(char **, char **))find("emulate_shared"))(&f->from, &f->to);
  m->functions[name] = f;
  *out = f;
  return OK;
}

API cuFuncGetAttribute(int *v, int a, Function *f) {
  ENTER_CONTEXT
  switch (a) {
    case 0: *v = f->bounds; break;
    case 1: *v = (int)(f->to - f->from); break;
    case 4: *v = 32; break;
    case 8: *v = f->most_dynamic; break;
    default: *v = 0;
  }
  return OK;
}

API cuFuncGetParamInfo(Function *f, size_t i, size_t *offset, size_t *size) {
  ENTER_CONTEXT
  if (i >= f->sizes.size()) return INVALID_VALUE;
  *offset = 0;
  for (size_t k = 0; k < i; k++) *offset += f->sizes[k];  // without the gaps that alignment leaves
  *size = f->sizes[i];
  return OK;
}

API cuFuncSetAttribute(Function *f, int a, int v) {
  ENTER_CONTEXT
  if (a != 8) return OK;
  int most = settings.capability < 80 ? 65536 : 232448;
  if (v < 0 || v + (int)(f->to - f->from) > most) return INVALID_VALUE;
  f->most_dynamic = v;
  return OK;
}

API cuOccupancyMaxActiveBlocksPerMultiprocessor(int *n, Function *f, int threads, size_t dynamic) {
  ENTER_CONTEXT
  *n = threads < 1 || threads > f->bounds || dynamic > (size_t)f->most_dynamic ? 0 : threads > 512 ? 1 : 2;
  return OK;
}

API cuLaunchKernel(Function *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned dynamic, Stream *s,
                   void **params, void **extra) {
  ENTER_CONTEXT
  uint64_t threads = (uint64_t)bx * by * bz;
  if (!f->entry) return NOT_FOUND;
  if (extra || !gx || !gy || !gz || gx > 2147483647u || gy > 65535 || gz > 65535) return INVALID_VALUE;
  if (!threads || threads > 1024 || bz > 64 || dynamic > (unsigned)f->most_dynamic) return INVALID_VALUE;
  if (threads > (uint64_t)f->bounds) return LAUNCH_OUT_OF_RESOURCES;
  Work w = {f, {gx, gy, gz}, {bx, by, bz}, dynamic, {}};
  for (size_t i = 0; i < f->sizes.size(); i++) w.args.emplace_back((char *)params[i], (char *)params[i] + f->sizes[i]);
  return enqueue(s, [w] { return run(w); });
}
