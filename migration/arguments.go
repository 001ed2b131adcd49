// SPDX-License-Identifier: Apache-2.0

package migration

// IncomingArgs are the arguments of migrate-incoming.
type IncomingArgs struct {
	URI         *string   `json:"uri"`
	Channels    []Channel `json:"channels,omitempty"`
	ExitOnError *bool     `json:"exit-on-error"`
}

// MigrateArgs are the arguments of migrate.
type MigrateArgs struct {
	URI      *string   `json:"uri"`
	Channels []Channel `json:"channels,omitempty"`
	Detach   *bool     `json:"detach"`
	Resume   *bool     `json:"resume"`
}

// Status is the schema's MigrationStatus.
type Status string

// Values lists them.
func (Status) Values() []string {
	return []string{"none", "setup", "cancelling", "cancelled", "active", "postcopy-active", "postcopy-paused",
		"postcopy-recover-setup", "postcopy-recover", "completed", "failed", "colo", "pre-switchover", "device", "wait-unplug"}
}

// StatusInfo is the answer to query-status.
type StatusInfo struct {
	Status  string `json:"status"`
	Running bool   `json:"running"`
}

// AddFD is what add-fd takes.
type AddFD struct {
	Set    *int64  `json:"fdset-id,omitempty"`
	Opaque *string `json:"opaque,omitempty"`
}

// GetFD is what getfd, and closefd, take.
type GetFD struct {
	Name string `json:"fdname"`
}
