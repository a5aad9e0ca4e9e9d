package main

import "github.com/mmcloughlin/avo/build"

func pause(c *build.Context) {
	begin(c, "pause", "func()", "pause tells the processor that this thread polls memory: it waits some 10 to 140 cycles and leaves the core to its sibling.")
	c.PAUSE()
	c.RET()
}
