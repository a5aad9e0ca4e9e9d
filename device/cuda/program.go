package cuda

// Program is a translation unit of CUDA C++: kernels/prelude.cuh, then the definitions, then the files, then the text.
type Program struct {
	Files  []string // names of files in the folder kernels, with suffix
	Define []string // "NAME value", each becomes a #define
	Text   string   // generated code
	Exact  bool     // products are not contracted into sums (--fmad=false): for code whose bits must equal the processor's
	// Fast takes denormals for zeros and roots and quotients by the device's approximations, and contracts nothing: the arithmetic of kernels that
	// are compiled with fast mathematics, with FMA written where they have it.
	Fast bool
}

// Geometry is the shape of a launch.
type Geometry struct {
	Grid   [3]int // blocks; 0 stands for 1
	Block  [3]int // threads a block; 0 stands for 1
	Shared int    // bytes of dynamic shared memory a block
}

// Rows is a grid of n blocks of so many threads.
func Rows(n, threads int) Geometry { return Geometry{Grid: [3]int{n}, Block: [3]int{threads}} }

// Over is enough blocks of so many threads for n items, each thread taking `each` of them.
func Over(n int64, threads, each int) Geometry {
	per := int64(threads) * int64(each)
	return Rows(int(max((n+per-1)/per, 1)), threads)
}
