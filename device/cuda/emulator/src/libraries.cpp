// The emulator's cuBLASLt and cuDNN. They compute nothing: they hold their caller to rules whose breach the real libraries answer with a crash, a
// leak or a wrong result, and seldom in a test. Every call is made on a thread that has a context, that of the handle; no two threads are in calls with
// one cuDNN handle; what is used exists and was finalized; nothing outlives its handle; addresses are aligned as was promised.
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <map>
#include <mutex>
#include <string>

#define API extern "C" __attribute__((visibility("default"))) int

namespace {

enum { OK = 0, BLAS_INVALID = 7, BLAS_NOT_SUPPORTED = 15, DNN_BAD = 2000, DNN_NOT_SUPPORTED = 3000, DNN_NO_MEMORY = 4004 };
enum Kind { BlasHandle = -1, BlasDesc = -2, BlasLayout = -3, BlasPreference = -4, DnnHandle = -5, Config = 3, Plan = 5, Pack = 16 };  // else cuDNN's

struct Object {
  int kind;
  void *context;
  void *handle = nullptr;  // that it was made with
  bool finalized = false;
  int users = 0;  // calls with the handle
  int64_t index = 0, workspace = 0, align = 1;
};

std::mutex lock;  // over what follows
std::map<uintptr_t, Object> objects;
uintptr_t last = 0x5000;
std::string problems;
int64_t plan_workspace = 1024, most_handles = 1000, handles_at_once;
int product_status, plan_status, suggestions = 3;  // what calls answer instead of their own
int64_t plan_answers;             // so many of those that finalize a plan
bool plan_texts = true;           // plans can be kept
const char text[] = "{\"engine\": 1}";

void problem(const char *call, const char *what) {
  std::string line = std::string(call) + ": " + what + "\n";
  if (problems.find(line) == std::string::npos) problems += line;
}

void *context() {
  static int (*get)(void **);
  static std::once_flag once;
  std::call_once(once, [] {
    if (void *driver = dlopen(EMULATE_FOLDER "/libcuda.so.1", RTLD_NOW)) get = (int (*)(void **))dlsym(driver, "cuCtxGetCurrent");
  });
  void *c = nullptr;
  return get && get(&c) == OK ? c : nullptr;
}

// made is a new object on a thread that has a context. The lock is held.
uintptr_t made(const char *call, int kind) {
  void *c = context();
  if (!c) problem(call, "no context is current");
  objects.emplace(last += 16, Object{kind, c});
  return last;
}

// find is an object that is used on a thread with its context. The lock is held.
Object *find(const char *call, uintptr_t at, int kind, bool any = false) {
  auto it = objects.find(at);
  if (it == objects.end() || (!any && it->second.kind != kind)) {
    problem(call, "an object that does not exist");
    return nullptr;
  }
  if (context() != it->second.context) problem(call, "another context than the object's is current, or none");
  return &it->second;
}

void freed(const char *call, uintptr_t at, int kind, bool any = false) {
  std::lock_guard<std::mutex> guard(lock);
  Object *o = find(call, at, kind, any);
  if (!o) return;
  if (o->users) problem(call, "another thread uses the handle");
  if (auto h = objects.find((uintptr_t)o->handle); o->handle && h != objects.end() && o->kind == Plan && h->second.users)
    problem(call, "another thread uses the plan's handle");
  for (auto &other : objects)
    if (other.second.handle == (void *)at) problem(call, "something that was made with the handle is still there");
  objects.erase(at);
}

// With is a call with a handle, in which no other may be.
struct With {
  const char *call;
  uintptr_t at;
  With(const char *call, uintptr_t at, int kind, int microseconds) : call(call), at(at) {
    {
      std::lock_guard<std::mutex> guard(lock);
      Object *h = find(call, at, kind);
      if (h && h->users++) problem(call, "two threads use one handle");
    }
    usleep((useconds_t)microseconds);
  }
  ~With() {
    std::lock_guard<std::mutex> guard(lock);
    auto it = objects.find(at);
    if (it == objects.end()) problem(call, "its handle was freed meanwhile");
    else it->second.users--;
  }
};

const int planning = 3000;  // microseconds that a call takes which plans or makes a handle

}  // namespace

// emulateLibraries tells how many objects there are, and what was done wrong since it was asked last.
API emulateLibraries(char *out, int n) {
  std::lock_guard<std::mutex> guard(lock);
  snprintf(out, (size_t)n, "%s", problems.c_str());
  problems.clear();
  return (int)objects.size();
}

// emulatePlanWorkspace sets what plans made from now on ask for.
API emulatePlanWorkspace(int64_t bytes) {
  std::lock_guard<std::mutex> guard(lock);
  plan_workspace = bytes;
  return OK;
}

// emulateHandles sets how many handles of cuDNN there can be.
API emulateHandles(int64_t most) {
  std::lock_guard<std::mutex> guard(lock);
  most_handles = most;
  return OK;
}

// emulateHandlesAtOnce is how many handles there were at once since it was asked last.
API emulateHandlesAtOnce() {
  std::lock_guard<std::mutex> guard(lock);
  int most = (int)handles_at_once;
  handles_at_once = 0;
  return most;
}

// emulatePlanTexts sets whether plans have texts.
API emulatePlanTexts(int64_t on) {
  std::lock_guard<std::mutex> guard(lock);
  plan_texts = on;
  return OK;
}

// emulateProducts sets what products answer from now on instead of being computed, 0 for nothing.
API emulateProducts(int64_t status) {
  std::lock_guard<std::mutex> guard(lock);
  product_status = (int)status;
  return OK;
}

// emulateSuggestions sets how many algorithms are suggested for a product.
API emulateSuggestions(int64_t n) {
  std::lock_guard<std::mutex> guard(lock);
  suggestions = (int)n;
  return OK;
}

// emulatePlans sets what the next plans that are finalized answer, and how many of them.
API emulatePlans(int64_t status, int64_t times) {
  std::lock_guard<std::mutex> guard(lock);
  plan_status = (int)status, plan_answers = times;
  return OK;
}

#define MADE(kind)                          \
  std::lock_guard<std::mutex> guard(lock);  \
  *out = made(__func__, kind);              \
  return OK;
#define FREED(kind)          \
  freed(__func__, at, kind); \
  return OK;

extern "C" __attribute__((visibility("default"))) size_t cublasLtGetVersion() { return 130002; }
API cublasLtCreate(uintptr_t *out) { MADE(BlasHandle) }
API cublasLtDestroy(uintptr_t at) { FREED(BlasHandle) }
API cublasLtMatmulDescCreate(uintptr_t *out, int, int) { MADE(BlasDesc) }
API cublasLtMatmulDescDestroy(uintptr_t at) { FREED(BlasDesc) }
API cublasLtMatrixLayoutCreate(uintptr_t *out, int, uint64_t, uint64_t, int64_t) { MADE(BlasLayout) }
API cublasLtMatrixLayoutDestroy(uintptr_t at) { FREED(BlasLayout) }
API cublasLtMatmulPreferenceCreate(uintptr_t *out) { MADE(BlasPreference) }
API cublasLtMatmulPreferenceDestroy(uintptr_t at) { FREED(BlasPreference) }

API cublasLtMatmulDescSetAttribute(uintptr_t at, int, const void *, size_t) {
  std::lock_guard<std::mutex> guard(lock);
  return find(__func__, at, BlasDesc) ? OK : BLAS_INVALID;
}

API cublasLtMatrixLayoutSetAttribute(uintptr_t at, int, const void *, size_t) {
  std::lock_guard<std::mutex> guard(lock);
  return find(__func__, at, BlasLayout) ? OK : BLAS_INVALID;
}

API cublasLtMatmulPreferenceSetAttribute(uintptr_t at, int attribute, const void *value, size_t) {
  std::lock_guard<std::mutex> guard(lock);
  Object *o = find(__func__, at, BlasPreference);
  if (o && attribute == 1) o->workspace = *(const int64_t *)value;
  if (o && attribute == 5) o->align = *(const uint32_t *)value;
  return o ? OK : BLAS_INVALID;
}

// product checks what all calls about a product are given. The lock is held.
static bool product(const char *call, uintptr_t handle, uintptr_t desc, uintptr_t a, uintptr_t b, uintptr_t c, uintptr_t d) {
  bool ok = find(call, handle, BlasHandle) && find(call, desc, BlasDesc);
  for (uintptr_t layout : {a, b, c, d}) ok = ok && find(call, layout, BlasLayout);
  return ok;
}

// Three algorithms are suggested unless a test says otherwise, of which the second is refused when it is run.
API cublasLtMatmulAlgoGetHeuristic(uintptr_t handle, uintptr_t desc, uintptr_t a, uintptr_t b, uintptr_t c, uintptr_t d, uintptr_t pref, int n,
                                   uint64_t (*results)[12], int *found) {
  std::lock_guard<std::mutex> guard(lock);
  Object *p = find(__func__, pref, BlasPreference);
  if (!p || !product(__func__, handle, desc, a, b, c, d)) return BLAS_INVALID;
  *found = n < suggestions ? n : suggestions;
  if (!*found) return BLAS_NOT_SUPPORTED;
  for (int i = 0; i < *found; i++) {
    memset(results[i], 0, sizeof results[i]);
    results[i][0] = (uint64_t)i, results[i][1] = (uint64_t)p->align, results[i][2] = results[i][8] = (uint64_t)i * 4096;
  }
  return OK;
}

API cublasLtMatmulAlgoCheck(uintptr_t handle, uintptr_t desc, uintptr_t a, uintptr_t b, uintptr_t c, uintptr_t d, const uint64_t *algorithm, uint64_t *result) {
  std::lock_guard<std::mutex> guard(lock);
  if (!product(__func__, handle, desc, a, b, c, d)) return BLAS_INVALID;
  memset(result, 0, 96);
  result[8] = algorithm[2];
  return OK;
}

API cublasLtMatmul(uintptr_t handle, uintptr_t desc, const void *alpha, uintptr_t a, uintptr_t la, uintptr_t b, uintptr_t lb, const void *beta, uintptr_t c,
                   uintptr_t lc, uintptr_t d, uintptr_t ld, const uint64_t *algorithm, uintptr_t workspace, size_t bytes, void *) {
  std::lock_guard<std::mutex> guard(lock);
  if (!alpha || !beta || !product(__func__, handle, desc, la, lb, lc, ld)) return BLAS_INVALID;
  for (uintptr_t at : {a, b, c, d})
    if (!at || at % algorithm[1]) problem(__func__, "an operand is not aligned as was promised");
  if (bytes < algorithm[2] || (bytes && (!workspace || workspace % 256))) problem(__func__, "the workspace is too small or not aligned");
  return product_status ? product_status : algorithm[0] == 1 ? BLAS_NOT_SUPPORTED : OK;
}

extern "C" __attribute__((visibility("default"))) size_t cudnnGetVersion() { return 91901; }
extern "C" __attribute__((visibility("default"))) const char *cudnnGetErrorString(int) { return "a status of the emulator"; }
extern "C" __attribute__((visibility("default"))) void cudnnGetLastErrorString(char *out, size_t n) { snprintf(out, n, "nothing more"); }

API cudnnCreate(uintptr_t *out) {
  usleep(planning);
  std::lock_guard<std::mutex> guard(lock);
  int64_t handles = 0;
  for (auto &o : objects) handles += o.second.kind == DnnHandle;
  if (handles >= most_handles) return DNN_NO_MEMORY;
  *out = made(__func__, DnnHandle);
  if (handles + 1 > handles_at_once) handles_at_once = handles + 1;
  return OK;
}

API cudnnDestroy(uintptr_t at) { FREED(DnnHandle) }

API cudnnSetStream(uintptr_t handle, void *) {
  With with(__func__, handle, DnnHandle, 0);
  return OK;
}

API cudnnBackendCreateDescriptor(int kind, uintptr_t *out) { MADE(kind) }

API cudnnBackendDestroyDescriptor(uintptr_t at) {
  freed(__func__, at, 0, true);
  return OK;
}

API cudnnBackendSetAttribute(uintptr_t at, int attribute, int type, int64_t n, const uintptr_t *values) {
  std::lock_guard<std::mutex> guard(lock);
  Object *o = find(__func__, at, 0, true);
  if (!o) return DNN_BAD;
  if (o->finalized) problem(__func__, "a finalized descriptor");
  if (type == 0) {  // a handle
    if (!find(__func__, values[0], DnnHandle)) return DNN_BAD;
    if (o->kind == Plan) o->handle = (void *)values[0];
    o->workspace = (int64_t)values[0];
  }
  for (int64_t i = 0; type == 15 && i < n; i++) {  // descriptors
    Object *part = find(__func__, values[i], 0, true);
    if (!part) return DNN_BAD;
    if (!part->finalized && part->kind != Config) problem(__func__, "a descriptor that is not finalized");
    if (attribute == 201) o->workspace = part->workspace;  // the handle of a heuristic's graph
    if (attribute == 401) o->index = part->index;
  }
  if (attribute == 405) {
    if ((size_t)n < sizeof text - 1 || memcmp(values, text, sizeof text - 1)) return DNN_BAD;
    o->index = 1;
  }
  return OK;
}

// Two engines are suggested, of which the first refuses to be planned.
API cudnnBackendGetAttribute(uintptr_t at, int attribute, int, int64_t n, int64_t *count, void *values) {
  std::lock_guard<std::mutex> guard(lock);
  Object *o = find(__func__, at, 0, true);
  if (!o) return DNN_BAD;
  if (!o->finalized) problem(__func__, "a descriptor that is not finalized");
  switch (attribute) {
    case 202:
      *count = 2;
      for (int64_t i = 0; i < n; i++)
        if (Object *config = find(__func__, ((uintptr_t *)values)[i], Config)) config->index = i;
      return OK;
    case 402:
      *count = 1, *(int64_t *)values = plan_workspace;
      return OK;
    case 405:
      if (!plan_texts) return DNN_NOT_SUPPORTED;
      *count = (int64_t)sizeof text;
      if (n) memcpy(values, text, (size_t)n < sizeof text ? (size_t)n : sizeof text);
      return OK;
  }
  return DNN_NOT_SUPPORTED;
}

API cudnnBackendFinalize(uintptr_t at) {
  uintptr_t handle = 0;
  int answer = OK;
  {
    std::lock_guard<std::mutex> guard(lock);
    Object *o = find(__func__, at, 0, true);
    if (!o) return DNN_BAD;
    if (o->kind == 4 || o->kind == Plan || o->kind == 15) handle = (uintptr_t)o->workspace;  // heuristics, plans and graphs have a handle
    if (o->kind == Plan && o->index == 0) answer = DNN_NOT_SUPPORTED;
    if (o->kind == Plan && plan_answers > 0) answer = plan_status, plan_answers--;
    o->finalized = !answer;
  }
  if (handle) With with(__func__, handle, DnnHandle, planning);
  return answer;
}

API cudnnBackendExecute(uintptr_t handle, uintptr_t plan, uintptr_t pack) {
  With with(__func__, handle, DnnHandle, 100);
  std::lock_guard<std::mutex> guard(lock);
  Object *p = find(__func__, plan, Plan), *v = find(__func__, pack, Pack);
  if (!p || !v) return DNN_BAD;
  if (!p->finalized || !v->finalized) problem(__func__, "a descriptor that is not finalized");
  if (p->handle != (void *)handle) problem(__func__, "a plan of another handle");
  return OK;
}
