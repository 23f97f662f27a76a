// What torch's C++ asks of CUDA, answered as if cards were there. Loaded before torch, which asks once and remembers.
//
// The guard: which card is current, which stream. Nothing runs on its own here, so a card's one stream has always
// caught up. The hooks: CUDA is there, and is the accelerator; what autograd does for a GPU it then does here.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

extern "C" {
int pretended_cards = 1; // set before the first backward pass: autograd starts a thread a card
}

namespace at {

using c10::DeviceType;
using c10::Stream;

thread_local DeviceIndex current_card = 0;

struct PretendedGuard final : c10::impl::DeviceGuardImplInterface {
  DeviceType type() const override { return DeviceType::CUDA; }
  DeviceIndex deviceCount() const noexcept override { return static_cast<DeviceIndex>(pretended_cards); }

  Device getDevice() const override { return Device(DeviceType::CUDA, current_card); }
  void uncheckedSetDevice(Device device) const noexcept override {
    if (device.has_index()) current_card = device.index();
  }
  void setDevice(Device device) const override { uncheckedSetDevice(device); }
  Device exchangeDevice(Device device) const override {
    const Device before = getDevice();
    setDevice(device);
    return before;
  }

  Stream getStream(Device device) const override { return Stream(Stream::DEFAULT, device); }
  Stream getDefaultStream(Device device) const override { return getStream(device); }
  Stream exchangeStream(Stream stream) const override { return getStream(stream.device()); }
  bool queryStream(const Stream&) const override { return true; }
  void synchronizeStream(const Stream&) const override {}

  void record(void**, const Stream&, const DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
};

struct CUDAHooks final : CUDAHooksInterface { // torch looks for this name
  explicit CUDAHooks(CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return static_cast<DeviceIndex>(pretended_cards); }
  int getNumGPUs() const override { return pretended_cards; }
  DeviceIndex current_device() const override { return current_card; }
  DeviceIndex getCurrentDevice() const override { return current_card; }
  const Generator& getDefaultGenerator(DeviceIndex) const override { return detail::getDefaultCPUGenerator(); }
  Generator getNewGenerator(DeviceIndex) const override { return detail::createCPUGenerator(); }
  Allocator* getPinnedMemoryAllocator() const override { return c10::GetCPUAllocator(); }
};

C10_REGISTER_GUARD_IMPL(CUDA, PretendedGuard)
REGISTER_CUDA_HOOKS(CUDAHooks)

} // namespace at
