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
	// Output:
	// cpu true
	// <nil>
}
