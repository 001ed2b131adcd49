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

// MigrationStatus is the schema's type of that name.
type MigrationStatus string

// Values lists them.
func (MigrationStatus) Values() []string {
	return []string{"none", "setup", "cancelling", "cancelled", "active", "postcopy-active", "postcopy-paused",
		"postcopy-recover-setup", "postcopy-recover", "completed", "failed", "colo", "pre-switchover", "device", "wait-unplug"}
}

// Status is the answer to query-status.
type Status struct {
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
