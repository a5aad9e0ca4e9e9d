package corpus_test

import (
	"fmt"
	"slices"
	"strings"

	"github.com/bitsandbyes/bitsandbyes/builtin/corpus"
)

// The documents of a seed are the same everywhere, and fewer of them are the first of more.
func ExampleGenerate() {
	few, more := slices.Collect(corpus.Generate(1, 3)), slices.Collect(corpus.Generate(1, 10))
	fmt.Println(len(few), len(more), slices.Equal(few, more[:3]))
	// Output: 3 10 true
}

// A row asks for the facts of its story as a list.
func ExampleFineTune() {
	train, held := corpus.FineTune(1)
	fmt.Println(len(train), len(held))
	label, _, _ := strings.Cut(train[0].Completion, ":")
	fmt.Printf("%q\n", label)
	// Output:
	// 2400 100
	// " who"
}
