# Plays the unit kubelet.service with kubeadm's drop-in: starts when a file appears, restarts for ever.
start=$1 cgroup=$2
until [ -e "$start" ]; do sleep 0.1; done
while :; do
    KUBELET_KUBEADM_ARGS=
    # As `EnvironmentFile=` does, with all that is in it.
    set -a
    [ ! -e /var/lib/kubelet/kubeadm-flags.env ] || . /var/lib/kubelet/kubeadm-flags.env
    set +a
    # The arguments are several words.
    # shellcheck disable=SC2086
    kubelet --bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf \
        --kubeconfig=/etc/kubernetes/kubelet.conf --config=/var/lib/kubelet/config.yaml \
        $KUBELET_KUBEADM_ARGS "--cgroup-root=/$cgroup"
    sleep 0.5
done
