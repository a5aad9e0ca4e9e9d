package device_test

import (
	"fmt"

	"github.com/bitsandbyes/bitsandbyes/device"
	_ "github.com/bitsandbyes/bitsandbyes/device/cpu" // registers the backend
)

// Which devices a program can open is decided by its blank imports.
func ExampleOpen() {
	dev, err := device.Open("cpu")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(dev.Info().Kind, dev.Info().Threads > 0)
	fmt.Println(dev.Close())

	_, err = device.Open("abacus")
	fmt.Println(err)
	// Output:
	// cpu true
	// <nil>
	// device "abacus" is unknown; this program was built with: cpu
}
