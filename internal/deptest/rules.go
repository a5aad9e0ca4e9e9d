package deptest

import "slices"

// edge forbids imports inside the module, outside test files: from any of From that is not in Except, to any of To that is not
// in Allow.
type edge struct {
	From, Except []string
	To, Allow    []string
	Reason       string
}

var (
	anything = []string{"..."}

	// backends are the packages that drive hardware.
	backends = []string{"device/cpu/...", "device/cuda/...", "device/opencl/..."}

	// testSupport are importable packages that hold bodies of tests.
	testSupport = []string{
		"device/devicetest/...", "autograd/gradcheck/...", "internal/optest/...", "internal/golden/...", "internal/deptest/...",
		"internal/vfs/faultfs/...", "internal/guard/...", "internal/testdevice/...", "device/cuda/emulator/...",
	}

	// programs are what a person starts; nothing builds on them.
	programs = []string{"cmd/...", "examples/...", "benchmarks/...", "tools/..."}
)

// edges is the order of the rooms: a graph flows from tensor to trainer, imports point the other way.
var edges = []edge{
	{From: []string{"tensor/..."}, To: anything, Allow: []string{"tensor/..."},
		Reason: "tensor is the leaf that every package speaks; an import here would be everybody's"},
	{From: []string{"device"}, To: anything, Allow: []string{"tensor"},
		Reason: "device is the seam between plans and hardware: it knows tensor and nothing else, or backends would drag the core in"},
	{From: []string{"quant/..."}, To: anything, Allow: []string{"quant/...", "tensor", "internal/..."},
		Reason: "quant is plain arithmetic on host memory, shared by ops, layers, optim, checkpoint and every backend"},
	{From: []string{"graph"}, To: anything, Allow: []string{"tensor", "internal/..."},
		Reason: "graph is the value that passes and ops work on; it knows neither"},
	{From: []string{"graph/ops/..."}, To: anything, Allow: []string{"graph/ops/...", "graph", "tensor", "quant/...", "internal/..."},
		Reason: "an op states shape, gradient and decomposition in terms of the graph; kernels and plans refer to ops, never back"},
	{From: []string{"graph/plan/..."}, To: anything, Allow: []string{"graph/plan/...", "graph", "tensor", "device", "internal/..."},
		Reason: "the planner knows no backend and no op by name: what it needs it asks for by interface, so that outside ops are equals"},
	{From: []string{"autograd"}, To: anything, Allow: []string{"autograd", "graph/ops/...", "graph", "tensor", "internal/..."},
		Reason: "autograd adds nodes to a graph; layers stand on it"},
	{From: []string{"layers/..."}, To: anything,
		Allow:  []string{"layers/...", "autograd", "graph/ops/...", "graph", "tensor", "quant/...", "internal/..."},
		Reason: "a layer is a struct of Vars with a Forward; files, devices, plans and models come to it from above"},
	{From: []string{"models/..."}, To: []string{"lora/...", "optim/...", "data/...", "distributed/...", "chat/..."},
		Reason: "a model is layers with a checkpoint's names; how it is adapted, trained and fed is decided above"},
	{From: []string{"lora/..."}, To: []string{"models/...", "optim/...", "data/...", "distributed/...", "chat/...", "tokenizer/..."},
		Reason: "adapters attach to layers of any model, so lora names no model and no training"},
	{From: []string{"optim/..."},
		To:     []string{"models/...", "lora/...", "checkpoint/...", "data/...", "distributed/...", "chat/...", "tokenizer/..."},
		Reason: "an optimizer sees parameters and gradients, whatever they belong to"},
	{From: []string{"checkpoint/..."}, To: []string{"models/...", "lora/...", "optim/...", "data/...", "distributed/...", "graph/plan/..."},
		Reason: "checkpoint turns names and bytes into tensors; meaning is added above it"},
	{From: []string{"tokenizer/..."}, To: anything, Allow: []string{"tokenizer/...", "internal/..."},
		Reason: "tokenizer is text to ids, useful without the rest"},
	{From: []string{"chat/..."}, To: anything, Allow: []string{"chat/...", "internal/..."},
		Reason: "chat is an interpreter for hostile templates; the less it can reach, the better"},
	{From: []string{"data/..."}, To: anything, Allow: []string{"data/...", "tensor", "tokenizer/...", "chat/...", "internal/..."},
		Reason: "data makes rows of ids and masks; it must not depend on what is trained with them"},
	{From: []string{"distributed/..."}, To: []string{"models/...", "lora/...", "data/...", "checkpoint/...", "chat/...", "tokenizer/..."},
		Reason: "distributed moves buffers and starts processes, whatever they train"},
	{From: backends, To: anything, Allow: []string{"tensor", "device", "quant/...", "graph", "graph/ops/...", "internal/...",
		"device/cpu/...", "device/cuda/...", "device/opencl/..."},
		Reason: "a backend knows op types, codebooks and foreign calls; anything above would tie kernels to one training loop"},
	{From: []string{"device/cpu/..."}, To: []string{"device/cuda/...", "device/opencl/..."},
		Reason: "backends do not know each other"},
	{From: []string{"device/cuda/..."}, To: []string{"device/cpu/...", "device/opencl/..."},
		Reason: "backends do not know each other"},
	{From: []string{"device/opencl/..."}, To: []string{"device/cpu/...", "device/cuda/..."},
		Reason: "backends do not know each other"},
	{From: anything, Except: slices.Concat([]string{"cmd/trainer/...", "examples/...", "benchmarks/...", "tools/..."}, backends, testSupport),
		To:     backends,
		Reason: "a backend is chosen by a blank import in a program (cmd/trainer, examples) or a test, never by a library"},
	{From: anything, Except: slices.Concat([]string{"trainer/..."}, programs), To: []string{"trainer/..."},
		Reason: "trainer is the top of the library: only programs (cmd/trainer, examples) stand on it"},
	{From: anything, Except: programs, To: programs,
		Reason: "programs are not libraries: move what is shared into a package"},
	{From: anything, Except: slices.Concat([]string{"benchmarks/..."}, testSupport), To: testSupport,
		Reason: "this package holds bodies of tests and must stay out of users' binaries"},
	{From: []string{"internal/ffi/..."}, To: anything, Allow: []string{"internal/ffi/..."},
		Reason: "internal/ffi is the only place of unsafe foreign calls and is kept small enough to read whole"},
	{From: []string{"internal/vfs/..."}, To: anything, Allow: []string{"internal/vfs/..."},
		Reason: "internal/vfs is the file system behind an interface; everything that writes stands on it"},
}

// external forbids a module from outside, outside test files, to all packages but Allow.
type external struct {
	Import []string
	Allow  []string
	Reason string
}

var externals = []external{
	{Import: []string{"C"}, Reason: "no cgo: one `go build` without a C compiler is the promise; open libraries through internal/ffi"},
	{Import: []string{"github.com/ebitengine/purego/..."}, Allow: []string{"internal/ffi/..."},
		Reason: "foreign calls are made in internal/ffi only, so that their rules (pinning, argument slices, threads) are kept in one place"},
	{Import: []string{"github.com/stretchr/testify/...", "pgregory.net/rapid/..."},
		Allow: slices.Concat([]string{"benchmarks/..."}, testSupport), Reason: "test libraries stay out of users' binaries"},
	{Import: []string{"github.com/spf13/cobra/...", "github.com/spf13/pflag/..."}, Allow: []string{"cmd/..."},
		Reason: "flags belong to cmd/trainer; packages take option structs"},
	{Import: []string{"gonum.org/v1/plot/..."}, Allow: []string{"trainer/...", "cmd/..."},
		Reason: "plots are drawn in reports; fonts and image code are too heavy for anything below"},
	{Import: []string{"github.com/lmittmann/tint/..."}, Allow: []string{"cmd/..."},
		Reason: "how log lines look is the program's choice; packages use log/slog"},
	{Import: []string{"github.com/parquet-go/...", "github.com/klauspost/compress/..."}, Allow: []string{"data/..."},
		Reason: "formats of rows are read in data, which checks hostile files before these libraries believe them"},
	{Import: []string{"gorgonia.org/...", "github.com/gomlx/...", "github.com/sugarme/..."}, Allow: []string{"benchmarks/peers/..."},
		Reason: "peers are compared with in their own module; the root go.mod stays without them"},
	{Import: []string{"os/exec"},
		Allow:  slices.Concat([]string{"distributed/...", "cmd/...", "tools/...", "benchmarks/...", "builtin/..."}, testSupport),
		Reason: "only the launcher starts processes"},
}

// unsafeAllowed are the packages that may import unsafe outside test files, each with its reason.
var unsafeAllowed = []struct{ Package, Reason string }{
	{"tensor", "views of one byte buffer as typed slices, without copying"},
	{"internal/ffi/...", "pointers across the C boundary"},
	{"device/cpu/...", "pointers into rows for assembly kernels and aligned scratch"},
	{"device/cuda/...", "host views of pinned memory that the driver owns"},
	{"device/opencl/...", "host views of mapped buffers that the driver owns"},
	{"internal/vfs", "memory maps and free-space calls of the operating system"},
	{"benchmarks/...", "measurements of the above"},
}

// Limits on length, in lines. Generated files (_gen.go) are exempt.
const (
	maxFileLines = 700
	maxFuncLines = 80

	// The usual lengths; Shares says how much of the tree keeps to them.
	usualFileLines = 450
	usualFuncLines = 45
)
