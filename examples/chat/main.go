// Command chat answers a conversation with a language model and, if one is given, an adapter. It does with the library what
// `trainer generate --chat` does with a command.
//
//	go run ./examples/chat -small                              # the built-in model, which only knows stories; a second
//	go run ./examples/chat -model DIR -adapter runs/first/adapter "Who are you?" "What can you do?"
//	echo '{"messages":[{"role":"user","content":"Hi"}]}' | go run ./examples/chat -model DIR -
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/bitsandbyes/bitsandbyes/data"
	_ "github.com/bitsandbyes/bitsandbyes/device/cpu" // a backend for the writer to run on
	"github.com/bitsandbyes/bitsandbyes/trainer"
)

func main() {
	var o trainer.GenerateOptions
	flag.StringVar(&o.Model, "model", "builtin:tiny", "Hugging Face directory or name, GGUF file, or built-in model")
	flag.StringVar(&o.Adapter, "adapter", "", "directory of a LoRA adapter")
	flag.StringVar(&o.Template, "template", "", "chat template instead of the model's: a file, or a name such as chatml")
	flag.IntVar(&o.MaxTokens, "tokens", 200, "most tokens of an answer")
	system := flag.String("system", "", "what the model is told first")
	small := flag.Bool("small", false, "two short answers of the built-in model")
	flag.Parse()
	questions := flag.Args()
	if *small {
		o.Model, o.Template, o.MaxTokens = "builtin:tiny", "plain", 24
		questions = []string{"Where is Tom?", "And Anna?"}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, o, *system, questions); err != nil {
		fmt.Fprintln(os.Stderr, "chat:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o trainer.GenerateOptions, system string, questions []string) (err error) {
	// A writer holds the weights, the adapter, and what was computed for the turns before.
	w, err := trainer.OpenWriter(o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	if len(questions) == 1 && questions[0] == "-" {
		return answerRow(ctx, w, os.Stdin)
	}
	c, err := w.NewChat(system)
	if err != nil {
		return err
	}
	for _, q := range questions {
		fmt.Println(">", q)
		// The answer arrives in pieces of whole characters. It ends at the token that the template puts behind a turn.
		a, err := c.Say(ctx, q, func(piece string) error { fmt.Print(piece); return nil })
		if err != nil {
			return err
		}
		fmt.Printf("\n[%d tokens; %d of the conversation's %d were known]\n", a.Tokens, a.Reused, a.PromptTokens)
	}
	return nil
}

// answerRow answers a conversation that is there as data, in the form that training reads.
func answerRow(ctx context.Context, w *trainer.Writer, from io.Reader) error {
	row := data.Row{File: "standard input", Line: 1}
	if err := json.NewDecoder(from).Decode(&row.Fields); err != nil {
		return err
	}
	conversation, err := row.Conversation()
	if err != nil {
		return err
	}
	_, err = w.Answer(ctx, trainer.Query{Conversation: &conversation}, func(piece string) error { fmt.Print(piece); return nil })
	fmt.Println()
	return err
}
