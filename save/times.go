// SPDX-License-Identifier: Apache-2.0

package save

// Times says where the time of a save went, in seconds. Attach, DeviceState, Memory, Complete, Sync and Publish come one
// after the other (in a live save, memory before device state too); together they are DurableSeconds but for a little. Scan
// and Write are parts of Memory, the mean of its channels: what is missing there is waiting for work, or for other channels.
type Times struct {
	Attach      float64 `json:"attach_seconds"`       // learning about the VM, and all that is checked before it is touched
	DeviceState float64 `json:"device_state_seconds"` // QEMU writes its devices' state; with its own engine a part of Memory
	Memory      float64 `json:"memory_seconds"`
	Scan        float64 `json:"scan_seconds"`     // reading, comparing and summing pages; 0 with QEMU's engine
	Write       float64 `json:"write_seconds"`    // writing them, which with direct I/O is waiting for the device; 0 with QEMU's engine
	Complete    float64 `json:"complete_seconds"` // headers, bitmaps, device state and seal
	Sync        float64 `json:"sync_seconds"`     // waiting for the device to have all of it
	Publish     float64 `json:"publish_seconds"`  // giving the image its name, durably
}
