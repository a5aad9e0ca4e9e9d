package tokenizer_test

import (
	"fmt"
	"slices"

	"github.com/bitsandbyes/bitsandbyes/tokenizer"
)

// A byte-level BPE learns what is frequent and can still spell everything else.
func ExampleTrainBPE() {
	texts := slices.Values([]string{"low lower lowest", "new newer newest", "slow slower slowest"})
	tok, err := tokenizer.TrainBPE(texts, tokenizer.TrainOptions{VocabSize: 270, EOS: "<|end|>"})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, text := range []string{"slower", "Grüße"} {
		ids, err := tok.Encode(text)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(len(ids), tok.Decode(ids))
	}
	// Output:
	// 2 slower
	// 7 Grüße
}

// A stream gives text as tokens arrive and holds a character back until all its bytes are there.
func ExampleStream() {
	tok, err := tokenizer.TrainBPE(slices.Values([]string{"a b c"}), tokenizer.TrainOptions{VocabSize: 256})
	if err != nil {
		fmt.Println(err)
		return
	}
	ids, err := tok.Encode("aé")
	if err != nil {
		fmt.Println(err)
		return
	}
	s := tokenizer.NewStream(tok, tokenizer.DecodeOptions{})
	for _, id := range ids {
		fmt.Printf("%q ", s.Push(id))
	}
	fmt.Printf("%q\n", s.Flush())
	// Output: "a" "" "é" ""
}
