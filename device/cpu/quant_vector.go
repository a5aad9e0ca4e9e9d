package cpu

import (
	"unsafe"

	"github.com/bitsandbyes/bitsandbyes/device/cpu/vec"
	"github.com/bitsandbyes/bitsandbyes/internal/fourbit"
	"github.com/bitsandbyes/bitsandbyes/tensor"
)

const (
	// sumGrain is the codes of a task of a transposed product of few vectors, at least: some 20 µs. The sums of its tasks are added at the
	// end, so their number follows from the shape and is at most sumTasks.
	sumGrain, sumTasks = 1 << 18, 8
	// dotGrain is the codes of a task of a product of few vectors, at least: some 2 µs. A task begins with codes that nothing has fetched, so
	// from dotEach tasks a thread on they have dotLong codes.
	dotGrain, dotLong, dotEach, dotMost = 1 << 15, 1 << 18, 2, 64
	// vectorTables is the tables that are made at a time, if rows are not longer: they and a vector stay in the first cache.
	vectorTables = 128
	// addColumns is the columns of a task that adds up.
	addColumns = 1024
)

// vectors4 is a product of one to four vectors by codes as they are stored. Each code is read once, in the order of memory.
type vectors4 struct {
	*product4
	unit   int
	blocks int // of a row
	group  int // rows whose tables are made at a time
	groups int
	tasks  int
	dotFn  func(worker, task int)
	addFn  func(task int)

	// Of a launch: parts of the scratch, and the result.
	x      []float32 // the vectors; arranged if it is they that rows are multiplied by
	temp   []float32 // a vector or result in the order of its elements
	y      []float32 // results as float32, of each task if trans
	some   []float32 // scales of each worker
	tables []fourbit.Table
	out    []byte
}

func newVectors4(p *product4, unit int) *vectors4 {
	v := &vectors4{product4: p, unit: unit, blocks: p.w.Cols / p.w.Blocksize}
	v.group, v.dotFn, v.addFn = max(vectorTables/v.blocks, 2)&^1, v.dot, v.add
	if p.trans {
		v.group, v.dotFn = 4, v.sum
	}
	v.groups = (p.rows + v.group - 1) / v.group
	size := p.rows * p.w.Cols
	if p.trans {
		v.tasks = min(max(size/sumGrain, 1), sumTasks, v.groups)
	} else {
		v.tasks = min(dotTasks(size, p.d.threads), v.groups)
	}
	return v
}

// dotTasks is how many tasks the rows of a product by size codes are cut into: as many for each thread. Rows are independent of each other,
// so results do not depend on it.
func dotTasks(size, threads int) int {
	n := max(size/dotGrain, 1)
	if n <= threads {
		return n
	}
	n = max(min(n, dotEach*threads), min(size/dotLong, dotMost))
	return n / threads * threads
}

func (v *vectors4) kernel() *Kernel {
	k := &Kernel{Run: func(c *Call) error {
		v.w.bind(c.In[1:])
		v.layout(tensor.View[float32](c.Scratch))
		v.out = c.Out[0]
		defer v.release()
		return v.run(c.In[0])
	}}
	k.ScratchBytes = 4 * int64(v.layout(nil))
	return k
}

func (v *vectors4) release() {
	v.product4.release()
	v.x, v.temp, v.y, v.some, v.tables, v.out = nil, nil, nil, nil, nil, nil
}

// layout cuts up the scratch and returns how many floats of it are needed.
func (v *vectors4) layout(scratch []float32) int {
	used := 0
	take := func(n int) []float32 {
		from := used
		used += (n + 15) &^ 15 // cache lines
		if scratch == nil {
			return nil
		}
		return scratch[from : from+n : from+n]
	}
	ins, results := v.w.Cols, v.m*v.rows
	if v.trans {
		ins, results = v.rows, v.tasks*v.m*v.w.Cols
	}
	v.x, v.temp, v.y = take(v.m*ins), take(v.w.Cols), take(results)
	v.some = take(v.d.threads * v.group * v.blocks)
	if tables := take(16 * v.d.threads * v.group * v.blocks); tables != nil {
		v.tables = unsafe.Slice((*fourbit.Table)(unsafe.Pointer(&tables[0])), len(tables)/16)
	}
	return used
}

func (v *vectors4) run(x []byte) error {
	if v.trans {
		vec.Widen(v.x, x, v.dtype)
		clear(v.y)
		if err := v.d.pool.RunWorker(v.tasks, v.dotFn); err != nil {
			return err
		}
		return v.d.pool.Run((v.w.Cols+addColumns-1)/addColumns, v.addFn)
	}
	for i := range v.m {
		row := v.w.Cols * v.dtype.Size()
		vec.Widen(v.temp, x[i*row:(i+1)*row], v.dtype)
		fourbit.Arrange(v.x[i*v.w.Cols:], v.temp, v.unit)
	}
	if v.dtype == tensor.F32 {
		v.y = tensor.View[float32](v.out)
	}
	if err := v.d.pool.RunWorker(v.tasks, v.dotFn); err != nil {
		return err
	}
	if v.dtype != tensor.F32 {
		vec.Narrow(v.out, v.y, v.dtype)
	}
	return nil
}

// eachGroup calls f for the groups of rows of a task, with their scales.
func (v *vectors4) eachGroup(worker, task int, f func(v *vectors4, r, rows, task int, scales []float32, tables []fourbit.Table)) {
	last := v.groups * (task + 1) / v.tasks * v.group
	at := worker * v.group * v.blocks
	for r := v.groups * task / v.tasks * v.group; r < min(last, v.rows); r += v.group {
		rows := min(v.group, v.rows-r)
		n := rows * v.blocks
		scales := v.some[at : at+n]
		v.w.Scales(scales, r*v.blocks)
		f(v, r, rows, task, scales, v.tables[at:at+n])
	}
}

// dot multiplies the rows of a task by the vectors.
func (v *vectors4) dot(worker, task int) {
	v.eachGroup(worker, task, func(v *vectors4, r, rows, _ int, scales []float32, tables []fourbit.Table) {
		codes := v.w.Codes[r*v.w.Cols/2:]
		if v.m == 1 {
			v.w.DotScaled(v.y[r:r+rows], codes, scales, tables, v.blocks, v.x, v.unit, v.dtype)
			return
		}
		v.w.Tables(tables, scales, v.dtype)
		fourbit.Dot(v.y[r:], v.rows, rows, codes, tables, v.blocks, v.w.Blocksize, v.x, v.w.Cols, v.m, v.unit)
	})
}

// sum adds the rows of a task times the elements of the vectors.
func (v *vectors4) sum(worker, task int) {
	v.eachGroup(worker, task, func(v *vectors4, r, rows, task int, scales []float32, tables []fourbit.Table) {
		v.w.Tables(tables, scales, v.dtype)
		cols := v.w.Cols
		for i := range v.m {
			fourbit.SumRows(v.y[(task*v.m+i)*cols:][:cols], v.x[i*v.rows+r:][:rows], v.w.Codes[r*cols/2:], cols/2, tables, v.blocks,
				v.w.Blocksize, v.unit)
		}
	})
}

// add adds up the sums of all tasks for some columns, task by task, and writes them.
func (v *vectors4) add(task int) {
	cols := v.w.Cols
	lo, hi := task*addColumns, min((task+1)*addColumns, cols)
	for i := range v.m {
		total := v.y[i*cols+lo : i*cols+hi]
		for t := 1; t < v.tasks; t++ {
			vec.OpAdd.Run(total, total, v.y[(t*v.m+i)*cols+lo:(t*v.m+i)*cols+hi], nil)
		}
		ordered := v.temp[lo:hi]
		fourbit.Restore(ordered, total, v.unit)
		size := v.dtype.Size()
		vec.Narrow(v.out[(i*cols+lo)*size:(i*cols+hi)*size], ordered, v.dtype)
	}
}
