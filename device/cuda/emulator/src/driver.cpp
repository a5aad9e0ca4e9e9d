// The emulator's libcuda: the entry points of the CUDA driver that device/cuda uses, on the processor: devices, errors, modules, launches.
// Names, arguments and codes are CUDA's. Streams are in stream.cpp, memory in memory.cpp.
#include <dlfcn.h>
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "state.h"

using namespace emulator;

namespace emulator {

Settings settings;
std::recursive_mutex lock;
bool initialized;
int contexts;
thread_local void *current;
int pending;

}  // namespace emulator

namespace {

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
std::string described;  // of the last fault

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
    else if (key == "streams") set_streams(value);
    else fprintf(stderr, "emulator: the setting %s is unknown\n", one.c_str());
  }
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

namespace emulator {

int fault(int code, const std::string &why) {
  fprintf(stderr, "emulator: %s\n", why.c_str());
  if (!pending) pending = code, described = why;
  return OK;
}

int reported() {
  int code = pending;
  if (!settings.sticky) pending = OK;
  return code;
}

}  // namespace emulator

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
  if (contexts == 1) finish_all();
  if (--contexts == 0) pending = OK;
  return OK;
}

API cuCtxSetCurrent(void *ctx) {
  ENTER
  current = ctx;
  return OK;
}

API cuCtxGetCurrent(void **ctx) {
  ENTER
  *ctx = contexts ? current : nullptr;
  return OK;
}

API cuCtxSynchronize() {
  ENTER_CONTEXT
  if (int code = forbidden()) return code;
  finish_all();
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
    {CAPTURE_MERGE, {"CUDA_ERROR_STREAM_CAPTURE_MERGE", "operation would result in a merge of separate capture sequences"}},
    {CAPTURE_UNMATCHED, {"CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", "capture was not initiated in this stream"}},
    {CAPTURE_UNJOINED, {"CUDA_ERROR_STREAM_CAPTURE_UNJOINED", "capturing stream has unjoined work"}},
    {CAPTURE_ISOLATION, {"CUDA_ERROR_STREAM_CAPTURE_ISOLATION", "dependency created on uncaptured work in another stream"}},
    {CAPTURED_EVENT, {"CUDA_ERROR_CAPTURED_EVENT", "operation not permitted on an event last recorded in a capturing stream"}},
    {CAPTURE_WRONG_THREAD, {"CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD", "attempt to terminate a thread-local capture sequence from another thread"}},
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

API cuModuleLoadData(Module **out, const void *image) {
  ENTER_CONTEXT
  if (int code = forbidden()) return code;
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

// Work that waits still needs the code.
API cuModuleUnload(Module *m) {
  ENTER_CONTEXT
  finish_all();
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
