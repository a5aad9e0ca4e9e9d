package cuda

const attnPlainThreads = 128

// attnSpan is how many columns of the result a lane of the plain kernels holds.
func attnSpan(d int) string {
	for _, span := range []string{"1", "2", "4"} {
		if d <= WarpSize*int(span[0]-'0') {
			return span
		}
	}
	return "8"
}

// plainForward is the kernel for every dtype, head size and option.
func (a *attention) plainForward() (attnRun, error) {
	f, err := a.dev.Function(a.program("attention_plain.cu", "SPAN "+attnSpan(a.D)), "attend_plain")
	if err != nil {
		return attnRun{}, err
	}
	return attnRun{label: "attention_plain", enqueue: func(c *Call, io *attnIO, _ Addr) error {
		return c.Launch(f, a.warps(a.Tq, a.Hq), &a.args, io.q, io.k, io.v, io.o, io.lse)
	}}, nil
}

// plainBackward is its gradient: first the numbers of each query, then the queries' gradients, then the keys'.
func (a *attention) plainBackward() (attnRun, error) {
	var fs [3]*Function
	for i, name := range []string{"attend_delta", "attend_plain_dq", "attend_plain_dkv"} {
		var err error
		if fs[i], err = a.dev.Function(a.program("attention_plain.cu", "SPAN "+attnSpan(a.D)), name); err != nil {
			return attnRun{}, err
		}
	}
	return attnRun{label: "attention_plain_grad", scratch: a.numbers(), enqueue: func(c *Call, io *attnIO, delta Addr) error {
		if err := c.Launch(fs[0], a.warps(a.Tq, a.Hq), &a.args, io.o, io.dout, io.dlse, delta); err != nil {
			return err
		}
		if err := c.Launch(fs[1], a.warps(a.Tq, a.Hq), &a.args, io.q, io.k, io.v, io.dout, io.lse, delta, io.dq); err != nil {
			return err
		}
		return c.Launch(fs[2], a.warps(a.Tk, a.Hkv), &a.args, io.q, io.k, io.v, io.dout, io.lse, delta, io.dk, io.dv)
	}}, nil
}

// warps is a grid with a warp for each of so many positions and heads.
func (a *attention) warps(positions, heads int) Geometry {
	return Over(int64(a.B)*int64(positions)*int64(heads)*WarpSize, attnPlainThreads, 1)
}
