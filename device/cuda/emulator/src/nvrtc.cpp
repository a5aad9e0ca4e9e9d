// The emulator's libnvrtc: "compiles" a program with the C++ compiler of this machine. The CUBIN is a shared library, which the emulator's
// libcuda opens. The functions and codes are those of NVRTC.
#include <fcntl.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <set>
#include <string>
#include <vector>

#define API extern "C" __attribute__((visibility("default")))

extern char **environ;

namespace {

enum { OK = 0, INVALID_INPUT = 3, INVALID_OPTION = 5, COMPILATION = 6, INTERNAL = 11 };

struct Program {
  std::string source, log, image;
};

std::string read_file(const std::string &path) {
  std::string s;
  FILE *f = fopen(path.c_str(), "rb");
  if (!f) return s;
  char b[65536];
  for (size_t n; (n = fread(b, 1, sizeof b, f)) > 0;) s.append(b, n);
  fclose(f);
  return s;
}

bool write_file(const std::string &path, const std::string &s) {
  FILE *f = fopen(path.c_str(), "wb");
  if (!f) return false;
  bool ok = fwrite(s.data(), 1, s.size(), f) == s.size();
  return fclose(f) == 0 && ok;
}

// run starts the compiler, its messages go to the file log.
int run(const std::vector<std::string> &args, const std::string &log) {
  std::vector<char *> argv;
  for (const std::string &a : args) argv.push_back(const_cast<char *>(a.c_str()));
  argv.push_back(nullptr);
  posix_spawn_file_actions_t fa;
  posix_spawn_file_actions_init(&fa);
  posix_spawn_file_actions_addopen(&fa, 2, log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  posix_spawn_file_actions_adddup2(&fa, 2, 1);
  posix_spawnattr_t at;
  posix_spawnattr_init(&at);
  sigset_t none;
  sigemptyset(&none);
  posix_spawnattr_setsigmask(&at, &none);
  posix_spawnattr_setflags(&at, POSIX_SPAWN_SETSIGMASK);
  pid_t pid;
  int rc = posix_spawnp(&pid, argv[0], &fa, &at, argv.data(), environ);
  posix_spawn_file_actions_destroy(&fa);
  posix_spawnattr_destroy(&at);
  if (rc) return -1;
  int status;
  while (waitpid(pid, &status, 0) < 0)
    if (errno != EINTR) return -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

bool word(char c) { return c == '_' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'); }

size_t space(const std::string &s, size_t i) {
  while (i < s.size() && (s[i] == ' ' || s[i] == '\t' || s[i] == '\n')) i++;
  return i;
}

// bounds erases __emulate_bounds__(first, ...) at i, if it is there, and returns its first argument.
std::string bounds(std::string &s, size_t &i) {
  static const std::string mark = "__emulate_bounds__";
  if (s.compare(i, mark.size(), mark)) return "";
  size_t from = i, open = s.find('(', i);
  int depth = 0;
  size_t comma = std::string::npos;
  for (i = open; i < s.size(); i++) {
    if (s[i] == '(' || s[i] == '<') depth++;
    if (s[i] == ',' && depth == 1 && comma == std::string::npos) comma = i;
    if ((s[i] == ')' || s[i] == '>') && --depth == 0) break;
  }
  size_t end = comma == std::string::npos ? i : comma;
  std::string first = s.substr(open + 1, end - open - 1);
  i = i + 1 < s.size() ? i + 1 : s.size();
  for (size_t j = from; j < i; j++)
    if (s[j] != '\n') s[j] = ' ';
  i = space(s, i);
  return first;
}

// entries finds the kernels in preprocessed text, erases their marks and appends an entry for each, with which the runtime calls it.
void entries(std::string &s) {
  static const std::string mark = "__emulate_kernel__";
  std::string tail;
  std::set<std::string> seen;
  for (size_t at = 0; (at = s.find(mark, at)) != std::string::npos;) {
    s.replace(at, mark.size(), mark.size(), ' ');
    size_t i = space(s, at);
    std::string most = bounds(s, i);
    if (s.compare(i, 4, "void")) continue;
    i = space(s, i + 4);
    std::string second = bounds(s, i);
    if (most.empty()) most = second;
    size_t j = i;
    while (j < s.size() && word(s[j])) j++;
    std::string name = s.substr(i, j - i);
    if (name.empty() || !seen.insert(name).second) continue;
    tail += "EXPORT void emulate_entry_" + name + "(void **p) { emulate_call(" + name + ", p); }\n";
    tail += "EXPORT int emulate_sizes_" + name + "(unsigned *out) { return emulate_sizes(" + name + ", out); }\n";
    tail += "EXPORT int emulate_bounds_" + name + "() { return " + (most.empty() ? "1024" : most) + "; }\n";
  }
  for (size_t at = 0; (at = tail.find("EXPORT", at)) != std::string::npos;)
    tail.replace(at, 6, "extern \"C\" __attribute__((visibility(\"default\")))");
  s += "\n# 1 \"entries\"\n" + tail;
}

std::string hash(const std::string &s) {
  uint64_t a = 0xcbf29ce484222325u, b = 0x9e3779b97f4a7c15u;
  for (unsigned char c : s) {
    a = (a ^ c) * 0x100000001b3u;
    b = (b ^ a) * 0xff51afd7ed558ccdu;
    b ^= b >> 29;
  }
  char out[40];
  snprintf(out, sizeof out, "%016llx%016llx", (unsigned long long)a, (unsigned long long)b);
  return out;
}

// Given by the builder: where device.h is, and where compiled programs are kept.
const std::string folder = EMULATE_FOLDER, programs = EMULATE_PROGRAMS;

// build compiles the program into the file out.
int build(Program *p, const std::vector<std::string> &defines, const std::string &out) {
  static std::atomic<int> count{0};
  std::string stem = programs + "/build." + std::to_string(getpid()) + "." + std::to_string(count++);
  std::string cu = stem + ".cu", ii = stem + ".ii", so = stem + ".so", log = stem + ".log";
  write_file(log, "");
  std::vector<std::string> pre = {EMULATE_CXX, "-E", "-x", "c++", "-std=c++17", "-include", folder + "/device.h"};
  for (const std::string &d : defines) pre.push_back(d);
  pre.insert(pre.end(), {cu, "-o", ii});
  int rc = write_file(cu, "# 1 \"kernel.cu\"\n" + p->source) ? run(pre, log) : -1;
  if (rc == 0) {
    std::string text = read_file(ii);
    entries(text);
    rc = write_file(ii, text) ? 0 : -1;
  }
  if (rc == 0) {
    std::vector<std::string> cc = {EMULATE_CXX, "-x", "c++-cpp-output", "-fpreprocessed", "-std=c++17", "-O1", "-w", "-pipe", "-shared", "-fPIC",
        "-ffp-contract=off", "-fwrapv", "-fno-strict-aliasing", "-fno-exceptions", "-fno-rtti", "-fno-asynchronous-unwind-tables",
        "-fno-threadsafe-statics", "-fno-stack-protector", "-fstack-clash-protection", "-fvisibility=hidden", "-fsanitize=alignment,bounds",
        "-fsanitize-undefined-trap-on-error", "-nostartfiles", "-nodefaultlibs"};
#if defined(__x86_64__)
    if (__builtin_cpu_supports("fma")) cc.push_back("-mfma");
#endif
    cc.insert(cc.end(), {ii, "-o", so, "-lm"});
    rc = run(cc, log);
  }
  p->log = read_file(log);
  if (rc == -1) p->log += "the emulator could not start " EMULATE_CXX " or write to " + programs + "\n";
  if (rc == 0 && rename(so.c_str(), out.c_str()) != 0) rc = -1;
  for (const std::string &f : {cu, ii, so, log}) unlink(f.c_str());
  return rc;
}

}  // namespace

// emulateCompile turns compiling off, for questions about which kernels there are: programs become an empty image.
static bool compiling = true;
API int emulateCompile(int on) {
  compiling = on != 0;
  return OK;
}

// The version differs where nothing is compiled, so that caches keep the images apart.
API int nvrtcVersion(int *major, int *minor) {
  *major = EMULATE_MAJOR;
  *minor = compiling ? 0 : 99;
  return OK;
}

API const char *nvrtcGetErrorString(int code) {
  switch (code) {
    case OK: return "NVRTC_SUCCESS";
    case INVALID_INPUT: return "NVRTC_ERROR_INVALID_INPUT";
    case INVALID_OPTION: return "NVRTC_ERROR_INVALID_OPTION";
    case COMPILATION: return "NVRTC_ERROR_COMPILATION";
    case INTERNAL: return "NVRTC_ERROR_INTERNAL_ERROR";
  }
  return "NVRTC_ERROR unknown";
}

static const int archs[] = {
#if EMULATE_MAJOR < 13
    70, 72,
#endif
    75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121};

API int nvrtcGetNumSupportedArchs(int *n) {
  *n = sizeof archs / sizeof archs[0];
  return OK;
}

API int nvrtcGetSupportedArchs(int *out) {
  memcpy(out, archs, sizeof archs);
  return OK;
}

API int nvrtcCreateProgram(Program **out, const char *source, const char *, int headers, const char *const *, const char *const *) {
  if (headers) return INVALID_INPUT;
  *out = new Program{source, "", ""};
  return OK;
}

API int nvrtcDestroyProgram(Program **p) {
  delete *p;
  *p = nullptr;
  return OK;
}

API int nvrtcCompileProgram(Program *p, int n, const char *const *options) {
  std::vector<std::string> defines;
  std::string key = p->source;
  for (int i = 0; i < n; i++) {
    std::string o = options[i];
    key += "\n" + o;
    const std::string arch = "--gpu-architecture=";
    if (o.compare(0, arch.size(), arch) == 0) {
      size_t digits = o.find('_');
      if (digits == std::string::npos) return INVALID_OPTION;
      int cc = atoi(o.c_str() + digits + 1);
      bool known = false;
      for (int a : archs) known = known || a == cc;
      if (!known) {
        p->log = "nvrtc: error: invalid value for --gpu-architecture (-arch)";
        return INVALID_OPTION;
      }
      defines.push_back("-D__CUDA_ARCH__=" + std::to_string(cc * 10));
      if (o.back() == 'a') defines.push_back("-D__CUDA_ARCH_FEAT_SM" + std::to_string(cc) + "_ALL=1");
    } else if (o.compare(0, 2, "-D") == 0) {
      defines.push_back(o);
    } else if (o.compare(0, 9, "--define-") == 0) {
      defines.push_back("-D" + o.substr(o.find('=') + 1));
    }
  }
  if (!compiling) {
    p->image = "EMULATED NOTHING";
    return OK;
  }
  std::string out = programs + "/" + hash(key) + ".so";
  p->image = read_file(out);
  if (!p->image.empty()) return OK;
  int rc = build(p, defines, out);
  if (rc < 0) return INTERNAL;
  if (rc > 0) return COMPILATION;
  p->image = read_file(out);
  return p->image.empty() ? INTERNAL : OK;
}

API int nvrtcGetProgramLogSize(Program *p, size_t *n) {
  *n = p->log.size() + 1;
  return OK;
}

API int nvrtcGetProgramLog(Program *p, char *out) {
  memcpy(out, p->log.c_str(), p->log.size() + 1);
  return OK;
}

API int nvrtcGetCUBINSize(Program *p, size_t *n) {
  *n = p->image.size();
  return OK;
}

API int nvrtcGetCUBIN(Program *p, char *out) {
  memcpy(out, p->image.data(), p->image.size());
  return OK;
}

// PTX is only asked for when the device is newer than the compiler; the image serves for it as well.
API int nvrtcGetPTXSize(Program *p, size_t *n) { return nvrtcGetCUBINSize(p, n); }
API int nvrtcGetPTX(Program *p, char *out) { return nvrtcGetCUBIN(p, out); }
