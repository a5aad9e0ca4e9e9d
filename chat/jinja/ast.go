package jinja

// expr is an expression; eval is called through machine.eval, which counts steps and places errors.
type expr interface {
	eval(m *machine, s *scope) (Value, error)
	place() pos
}

// stmt is a statement; exec says how control leaves it.
type stmt interface {
	exec(m *machine, s *scope) (flow, error)
	place() pos
}

// flow is what a statement does to the loop around it.
type flow uint8

const (
	flowNext flow = iota
	flowBreak
	flowContinue
)

func (p pos) place() pos { return p }

// Expressions.
type (
	constant struct {
		pos
		v Value
	}
	nameExpr struct {
		pos
		name string
	}
	listExpr struct {
		pos
		items []expr
		tuple bool
	}
	dictExpr struct {
		pos
		keys, vals []expr
	}
	// condExpr is "then if cond else other"; other may be nil.
	condExpr struct {
		pos
		cond, then, other expr
	}
	logicExpr struct {
		pos
		and  bool
		l, r expr
	}
	notExpr struct {
		pos
		x expr
	}
	unaryExpr struct {
		pos
		op string
		x  expr
	}
	binaryExpr struct {
		pos
		op   string
		l, r expr
	}
	concatExpr struct {
		pos
		items []expr
	}
	// compareExpr is a chain: first op[0] rest[0] op[1] rest[1] ...
	compareExpr struct {
		pos
		first expr
		ops   []string
		rest  []expr
	}
	attrExpr struct {
		pos
		x    expr
		name string
	}
	indexExpr struct {
		pos
		x, i expr
	}
	sliceExpr struct {
		pos
		x              expr
		from, to, step expr
	}
	callExpr struct {
		pos
		fn   expr
		args callArgs
	}
	// filterExpr is x | name(args); x is nil in a filter block.
	filterExpr struct {
		pos
		x    expr
		name string
		args callArgs
	}
	testExpr struct {
		pos
		x    expr
		name string
		args callArgs
	}
)

// callArgs are the arguments as written: positions, names, *star and **stars.
type callArgs struct {
	items       []expr
	names       []string
	named       []expr
	star, stars expr
}

// Statements.
type (
	textStmt struct {
		pos
		s string
	}
	outStmt struct {
		pos
		x expr
	}
	ifStmt struct {
		pos
		conds  []expr
		bodies [][]stmt
		other  []stmt
	}
	forStmt struct {
		pos
		target    target
		iter      expr
		filter    expr
		body      []stmt
		other     []stmt
		recursive bool
	}
	setStmt struct {
		pos
		target target
		x      expr
	}
	// setBlock is {% set x %}...{% endset %}, with filters on it or none.
	setBlock struct {
		pos
		target  target
		filters []*filterExpr
		body    []stmt
	}
	withStmt struct {
		pos
		targets []target
		vals    []expr
		body    []stmt
	}
	filterStmt struct {
		pos
		filters []*filterExpr
		body    []stmt
	}
	macroStmt struct {
		pos
		m *macro
	}
	callStmt struct {
		pos
		call *callExpr
		m    *macro
	}
	generationStmt struct {
		pos
		body []stmt
	}
	loopControl struct {
		pos
		f flow
	}
)

// macro is the body of a macro or of a call block.
type macro struct {
	name     string
	params   []string
	defaults []expr // for the last len(defaults) params
	body     []stmt
	// What the body mentions decides what it accepts.
	varargs, kwargs, caller bool
	in                      *scope // where it was defined; set when it runs
}

// target is what a loop or set assigns to: a name, ns.attr, or a tuple of targets.
type target struct {
	pos
	name, attr string
	items      []target
}
