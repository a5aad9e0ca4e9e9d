package graph

import (
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
)

// builders are the packages whose frames are skipped when looking for the line of the user that built a node.
var builders = []string{"/graph.", "/graph/ops.", "/autograd.", "/layers.", "/optim."}

const module = "github.com/bitsandbyes/bitsandbyes"

// frames caches, for each return address, the position to report, "" to look further up. Inlining can put several functions
// behind one address, so the whole expansion is resolved once.
var frames sync.Map // uintptr -> string

// callerPos returns "file.go:88" of the first frame outside the building packages.
func callerPos() string {
	var pcs [64]uintptr
	if s := firstOutside(pcs[:runtime.Callers(4, pcs[:nearFrames])]); s != "" {
		return s
	}
	if s := firstOutside(pcs[:runtime.Callers(4, pcs[:])]); s != "" {
		return s
	}
	return "?"
}

// Caller returns "file.go:88" of the line outside this module's packages that build graphs which led to the caller, for messages about what was
// declared there.
func Caller() string { return callerPos() }

// nearFrames is how far up the stack most positions are found; unwinding further costs more than the rest of building a node.
const nearFrames = 6

func firstOutside(pcs []uintptr) string {
	for _, pc := range pcs {
		if cached, ok := frames.Load(pc); ok {
			if s := cached.(string); s != "" {
				return s
			}
			continue
		}
		s := resolve(pc)
		frames.Store(pc, s)
		if s != "" {
			return s
		}
	}
	return ""
}

func resolve(pc uintptr) string {
	it := runtime.CallersFrames([]uintptr{pc})
	for {
		f, more := it.Next()
		if f.Function != "" && !isBuilder(f) {
			return filepath.Base(f.File) + ":" + strconv.Itoa(f.Line)
		}
		if !more {
			return ""
		}
	}
}

func isBuilder(f runtime.Frame) bool {
	if strings.HasSuffix(f.File, "_test.go") {
		return false
	}
	rest, ok := strings.CutPrefix(f.Function, module)
	if !ok {
		return strings.HasPrefix(f.Function, "runtime.")
	}
	for _, b := range builders {
		if strings.HasPrefix(rest, b) {
			return true
		}
	}
	return false
}
